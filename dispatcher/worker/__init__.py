"""Decides when and how much: the tick and its stages, each beside the step of `store/` that it calls."""
