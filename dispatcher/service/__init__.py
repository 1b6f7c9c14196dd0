"""Assembles the parts, runs them, and shuts them down in order."""
