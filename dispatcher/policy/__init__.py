"""Decides, and does nothing: no clock, no randomness, no I/O of its own."""
