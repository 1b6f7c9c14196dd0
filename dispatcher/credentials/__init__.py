"""Finds the bearer token of an installation."""
