"""The database that a command works on."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from dispatcher.database import schema
from dispatcher.database.transactions import Database, open_database
from dispatcher.settings.environment import variable_name
from dispatcher.settings.settings import Settings


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
    """Like `opened`. Raises UnusableSchema unless the database exists and this program can work with its tables."""
    with opened(settings) as database:
        schema.refuse_missing_file(database)
        schema.check(database)
        yield database
