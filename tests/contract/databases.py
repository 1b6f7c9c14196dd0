"""The databases that every contract test runs on, by the names that it may choose among."""

import pytest

POSTGRESQL = [
    "postgresql",
    pytest.param("postgresql-18", marks=pytest.mark.heavy),
    pytest.param("postgresql-schema", marks=pytest.mark.heavy),
    pytest.param("pgbouncer", marks=pytest.mark.heavy),
]
MYSQL = ["mysql"]
SERVERS = [*POSTGRESQL, *MYSQL]
EVERY = ["sqlite", *SERVERS]

on_servers = pytest.mark.parametrize("server", SERVERS, indirect=True)
"""SQLite has one writer at a time, so that some things cannot happen there."""
on_postgresql = pytest.mark.parametrize("server", POSTGRESQL, indirect=True)
on_mysql = pytest.mark.parametrize("server", MYSQL, indirect=True)
on_sqlite = pytest.mark.parametrize("server", ["sqlite"], indirect=True)

RARELY_ELSEWHERE = [
    "sqlite",
    *(
        pytest.param(name, marks=pytest.mark.heavy)
        for name in ("postgresql", "postgresql-schema", "pgbouncer", "mysql")
    ),
]
"""For tests with real processes: SQLite always, the others in CI."""
