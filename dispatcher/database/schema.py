"""The database's schema: rejects one that this program cannot work with, and prints the newest.

The program works on any revision of its own major version: without what an older one lacks, and without using what a newer one added.
Another major version is rejected.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from dispatcher.database import revisions
from dispatcher.database.transactions import Database
from dispatcher.outbox.ddl import table_statements
from dispatcher.outbox.tables import metadata

FOREIGN = "the tables were not created by `dispatcher migrate`: upgrade them by the means that created them, such as your own migrations"


class UnusableSchema(Exception):
    """The database's schema is missing, or of another major version. The message says what to do."""


@dataclass(frozen=True, slots=True)
class Schema:
    """A schema that this program can work with."""

    revision: str | None
    """None: the tables were created by other means than `migrate`."""
    lacking: frozenset[sa.Column[Any]] = frozenset()
    """The columns that later revisions add."""

    @property
    def is_newer(self) -> bool:
        """Whether the program is older than the schema."""
        return self.revision is not None and self.revision > revisions.newest()

    @property
    def warning(self) -> str | None:
        """What does not work because the schema is older than the program, and what to do; None if it is not older."""
        names = sorted({column.table.name if is_addition(column.table) else str(column) for column in self.lacking})
        lacking = ", ".join(names) or "what later revisions add"
        if self.revision is not None and self.revision < revisions.newest():
            return (
                f"the database is at schema {self.revision}, this program knows {revisions.newest()}: everything works that does not need"
                f" {lacking}. Run `dispatcher migrate`"
            )
        return f"the tables lack {lacking}, without which everything else works: {FOREIGN}" if names else None


def describe_changed_tables(database: Database, missing: Sequence[sa.Column[Any]]) -> str:
    """Returns the message for tables that lack columns which no migration adds."""
    return (
        f"the tables lack {', '.join(map(str, missing))}: something else has changed them, or an unreleased version made them; `dispatcher"
        f" schema --dialect {database.dialect.name}` prints them as they should be"
    )


def describe_missing_schema(schema: str) -> str:
    """Returns the message for a PostgreSQL schema that does not exist."""
    return f"the database has no schema {schema}, which DISPATCHER_SCHEMA names"


def refuse_missing_file(database: Database) -> None:
    """Raises UnusableSchema if the database is a file that does not exist; connecting would create it."""
    if (path := database.dialect.missing_file(database.engine.url)) is not None:
        raise UnusableSchema(
            f"there is no database file {path}: run `dispatcher migrate`, or correct DISPATCHER_DATABASE_URL"
        )


def check(database: Database) -> Schema:
    """Returns the database's schema if this program can work with it, and notes in `database` what it lacks.

    Raises UnusableSchema otherwise.
    """
    with database.read() as connection:
        schema = _read(connection, database)
    database.lacking = schema.lacking
    return schema


def _read(connection: sa.Connection, database: Database) -> Schema:
    revision = revisions.read(connection, database.schema)
    if revision is not None and revision not in revisions.known():
        if revisions.is_newer_minor(revision):
            return Schema(revision)
        raise UnusableSchema(revisions.describe_unknown(revision))
    if revision == revisions.newest():
        return Schema(revision)
    if revision is not None and revisions.major(revision) != revisions.major(revisions.newest()):
        raise UnusableSchema(
            f"the database is at schema {revision}, this program needs {revisions.newest()}: run `dispatcher migrate`"
        )
    if revision is None and has_tables(connection, database.schema) and revisions.was_interrupted(connection, database):
        raise UnusableSchema(
            "a migration of this database was interrupted: run `dispatcher migrate` again, which completes it"
        )
    missing = find_missing_columns(connection, database)
    if needed := leave_additions_out(missing):
        raise UnusableSchema(
            _why_missing(connection, database, needed[0])
            if revision is None
            else describe_changed_tables(database, needed)
        )
    return Schema(revision, frozenset(missing))


def _why_missing(connection: sa.Connection, database: Database, first: sa.Column[Any]) -> str:
    if database.dialect.lacks_schema(connection, database.schema):
        return f"{describe_missing_schema(str(database.schema))}: correct it, or run `dispatcher migrate`, which creates it"
    if has_tables(connection, database.schema):
        return f"{first} is missing, and {FOREIGN}"
    return "the dispatcher's tables are missing: run `dispatcher migrate`"


def missing_columns(database: Database) -> list[sa.Column[Any]]:
    """Returns the columns that the database lacks; as text they are `table.column`."""
    with database.read() as connection:
        return find_missing_columns(connection, database)


def is_addition(what: sa.Column[Any] | sa.Table) -> bool:
    """Whether a later revision of this major version added the column or table: programs work without it."""
    return "since" in what.info or (isinstance(what, sa.Column) and "since" in what.table.info)


def ddl(dialect: str, schema: str | None = None) -> str:
    """Returns the newest schema as SQL, for partners who create the tables themselves. `dialect`: postgresql, mysql or sqlite."""
    return "\n".join(f"{statement};" for statement in table_statements(dialect, schema))


def has_tables(connection: sa.Connection, schema: str | None) -> bool:
    """Whether any of our tables exists."""
    return not metadata.tables.keys().isdisjoint(sa.inspect(connection).get_table_names(schema))


def find_missing_columns(connection: sa.Connection, database: Database) -> list[sa.Column[Any]]:
    """Returns the columns that the database lacks, table by table."""
    inspector = sa.inspect(connection)
    missing: list[sa.Column[Any]] = []
    for table in metadata.sorted_tables:
        present = _present_columns(inspector, table, database)
        missing += (column for column in table.c if column.name not in present)
    return missing


def _present_columns(inspector: sa.Inspector, table: sa.Table, database: Database) -> set[str]:
    """Returns the names of the table's columns; none if it does not exist."""
    try:
        if not inspector.has_table(table.name, schema=database.schema):
            return set()
    except DBAPIError as error:
        # MySQL and MariaDB deny even the question to a user without a privilege on the table, which an older release did not need.
        if database.dialect.is_denied(error) and is_addition(table):
            return set()
        raise
    return {column["name"] for column in inspector.get_columns(table.name, database.schema)}


def leave_additions_out(missing: list[sa.Column[Any]]) -> list[sa.Column[Any]]:
    """Returns those of the missing columns that no program works without."""
    return [column for column in missing if not is_addition(column)]
