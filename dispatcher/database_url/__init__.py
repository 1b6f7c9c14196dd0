"""Reads a database URL in the words of any provider or client, and translates it for our driver."""
