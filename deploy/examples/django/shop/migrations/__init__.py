"""The shop's tables, step by step."""
