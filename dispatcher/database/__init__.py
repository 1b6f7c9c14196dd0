"""One database and its differences: connections, transactions, schema."""
