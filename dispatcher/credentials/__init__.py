"""The bearer token of an installation."""
