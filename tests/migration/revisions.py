"""Databases at another revision than the newest."""

from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa
from alembic import command

from dispatcher.database import migration, revisions
from dispatcher.database.transactions import Database
from dispatcher.outbox.tables import VERSION_TABLE, metadata

FIRST = "0001"
NEXT = "0098"
"""A minor revision that this program does not know."""


def migrate_to(database: Database, revision: str) -> None:
    """Migrates an empty database to this revision, as the release that brought it would."""
    with database.engine.connect() as connection, database.dialect.migration(connection):
        command.upgrade(migration._config(connection=connection, schema=database.schema), revision)


def expand(database: Database) -> None:
    """Does what a later migration may do: adds a table and columns, and notes its revision."""
    execute(
        database,
        "CREATE TABLE {}vercel_later (id integer PRIMARY KEY)",
        *(f"ALTER TABLE {{}}{table} ADD COLUMN later varchar(9)" for table in metadata.tables),
        f"UPDATE {{}}{VERSION_TABLE} SET version_num = '{NEXT}'",
    )


def contract(database: Database) -> None:
    """Undoes `expand`."""
    execute(
        database,
        "DROP TABLE {}vercel_later",
        *(f"ALTER TABLE {{}}{table} DROP COLUMN later" for table in metadata.tables),
        f"UPDATE {{}}{VERSION_TABLE} SET version_num = '{revisions.newest()}'",
    )


@contextmanager
def expanded(database: Database) -> Iterator[None]:
    """Within the block the database is newer than the program."""
    expand(database)
    yield
    contract(database)


def execute(database: Database, *statements: str) -> None:
    """Executes the statements, in which `{}` stands for the schema."""
    with database.engine.begin() as connection:
        for statement in statements:
            connection.execute(sa.text(statement.format(f"{database.schema}." if database.schema else "")))
