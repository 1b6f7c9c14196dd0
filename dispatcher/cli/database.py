"""The database that a command works on."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from dispatcher.cli.exits import CommandFailed
from dispatcher.database import schema
from dispatcher.database.transactions import Database, open_database
from dispatcher.settings.settings import Settings, variable_name


def is_named() -> bool:
    """Whether the environment names a database."""
    variable = variable_name("database_url")
    return variable in os.environ or f"{variable}_FILE" in os.environ


@contextmanager
def opened(settings: Settings) -> Iterator[Database]:
    """The database that the settings name, for the duration of the block."""
    database = open_database(settings.database_url.get_secret_value(), settings.database_schema)
    try:
        yield database
    finally:
        database.close()


@contextmanager
def checked(settings: Settings) -> Iterator[Database]:
    """Like `opened`, for a database that must exist. Raises UnusableSchema unless its tables are of this program's version."""
    with opened(settings) as database:
        if (path := database.dialect.missing_file(database.engine.url)) is not None:
            raise CommandFailed(
                f"there is no database file {path}: run `dispatcher migrate`, or correct DISPATCHER_DATABASE_URL"
            )
        schema.check(database)
        yield database
