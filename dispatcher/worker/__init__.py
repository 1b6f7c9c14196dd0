"""The tick and its stages. `worker/X` decides when and how much, `store/X` does it in the database."""
