"""Databases of their own, beside those of other tests, for tests that fill them once for a whole module."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy import make_url

from dispatcher.database import migration
from dispatcher.database.transactions import Database, open_database


@contextmanager
def places(request: pytest.FixtureRequest, directory: pytest.TempPathFactory) -> Iterator[Callable[[str], Database]]:
    """Opens databases by name on the server that the fixture's parameter names, with fresh tables, and drops them afterwards."""
    opened: list[Database] = []

    def fresh(name: str) -> Database:
        database = _open(request, directory, name)
        migration.migrate(database)
        migration.downgrade(database)  # removes the tables that an interrupted run has left
        migration.migrate(database)
        opened.append(database)
        return database

    yield fresh
    for database in opened:
        migration.downgrade(database)
        database.close()
        if request.param == "postgresql":
            _execute(str(request.getfixturevalue("postgresql_url")), f"DROP SCHEMA {database.schema} CASCADE")
        if request.param == "mysql":
            _execute(str(request.getfixturevalue("mysql_url")), f"DROP DATABASE {database.engine.url.database}")


def _open(request: pytest.FixtureRequest, directory: pytest.TempPathFactory, name: str) -> Database:
    match request.param:
        case "postgresql":
            url = str(request.getfixturevalue("postgresql_url"))
            _execute(url, f"CREATE SCHEMA IF NOT EXISTS {name}")
            return open_database(url, name)
        case "mysql":
            url = str(request.getfixturevalue("mysql_url"))
            own = make_url(url).set(
                database=f"{make_url(url).database}_{name}"
            )  # the server may be in use by other tests
            _execute(url, f"CREATE DATABASE IF NOT EXISTS {own.database}")
            return open_database(own.render_as_string(hide_password=False))
        case _:
            return open_database(f"sqlite:///{directory.mktemp(name)}/test.db")


def _execute(url: str, statement: str) -> None:
    database = open_database(url)
    with database.engine.begin() as connection:
        connection.exec_driver_sql(statement)
    database.close()
