"""The tick and its stages: when and how much. The module of the same name in `store/` does it in the database."""
