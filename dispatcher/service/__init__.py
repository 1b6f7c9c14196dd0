"""Puts the parts together, runs them, and takes them apart in order."""
