"""Makes decisions and has no effects: no clock, no randomness and no I/O of its own."""
