"""One request, one outcome."""
