"""The names of the databases that the contract tests run on, and the marks that select some of them."""

import pytest

VARIANTS = [
    pytest.param(name, marks=pytest.mark.variant) for name in ("postgresql-18", "postgresql-schema", "pgbouncer")
]
POSTGRESQL = ["postgresql", *VARIANTS]
MYSQL = ["mysql"]
SERVERS = [*POSTGRESQL, *MYSQL]
EVERY = ["sqlite", *SERVERS]

on_servers = pytest.mark.parametrize("server", SERVERS, indirect=True)
"""SQLite has one writer at a time, so that some things cannot happen there."""
on_postgresql = pytest.mark.parametrize("server", POSTGRESQL, indirect=True)
on_mysql = pytest.mark.parametrize("server", MYSQL, indirect=True)
on_sqlite = pytest.mark.parametrize("server", ["sqlite"], indirect=True)
on_durable = pytest.mark.parametrize("server", ["sqlite", *POSTGRESQL], indirect=True)
"""The databases on which each transaction chooses whether its commit waits for the disk."""

IN_PROCESSES = [
    "sqlite",
    *(pytest.param(name, marks=pytest.mark.gate) for name in ("postgresql", "mysql")),
    *VARIANTS[1:],
]
"""For tests with real processes: `make test` has them on SQLite only."""
