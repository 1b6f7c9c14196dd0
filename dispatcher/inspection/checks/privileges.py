"""Checks what the database's user may do, with statements that touch no row and are rolled back."""

from collections.abc import Iterator

import sqlalchemy as sa
from sqlalchemy import Executable, Table
from sqlalchemy.exc import DBAPIError

from dispatcher.database.errors import is_unreachable
from dispatcher.database.transactions import Database
from dispatcher.inspection.checks.finding import Finding, ok, problem
from dispatcher.outbox.tables import (
    VERSION_TABLE,
    attempt,
    collector,
    dead_letter,
    delivery,
    installation,
    metadata,
    outbox,
)

_ALL = ("SELECT", "INSERT", "UPDATE", "DELETE")
_NEEDED: dict[Table, tuple[str, ...]] = {
    outbox: ("SELECT", "INSERT", "DELETE"),
    delivery: ("SELECT", "INSERT", "UPDATE", "DELETE"),
    installation: ("SELECT", "INSERT", "UPDATE"),
    collector: ("SELECT", "INSERT", "UPDATE"),
    attempt: ("SELECT", "INSERT", "DELETE"),
    dead_letter: ("SELECT", "INSERT", "UPDATE", "DELETE"),
    Table(VERSION_TABLE, sa.MetaData(), sa.Column("version_num", sa.String)): ("SELECT",),
}


def needed() -> dict[Table, tuple[str, ...]]:
    """Returns the privileges that the dispatcher's user needs, by table."""
    return {**dict.fromkeys(metadata.tables.values(), _ALL), **_NEEDED}


def check_privileges(database: Database) -> Iterator[Finding]:
    """Reports the missing GRANT of each table. Tables that do not exist are left to `check_tables`."""
    lacking = [
        (table, missing)
        for table, privileges in needed().items()
        if (missing := [privilege for privilege in privileges if _is_denied(database, table, privilege)])
    ]
    with database.read() as connection:
        for table, missing in lacking:
            grant = database.dialect.grant(connection, table.name, missing, database.schema)
            yield problem("privileges", f"the database's user lacks a privilege: {grant}")
    if not lacking:
        yield ok("privileges", "the database's user may do everything that the dispatcher does")


def _is_denied(database: Database, table: Table, privilege: str) -> bool:
    try:
        with database.engine.connect() as connection:  # no commit: it is rolled back
            connection.execute(_attempt(table, privilege))
    except DBAPIError as error:
        if is_unreachable(error):
            raise
        return database.dialect.is_denied(error)
    return False


def _attempt(table: Table, privilege: str) -> Executable:
    """Returns a statement that needs the privilege and matches no row."""
    columns = [column for column in table.c if column.identity is None]
    match privilege:
        case "INSERT":
            nothing = sa.select(*columns).where(sa.false())
            return sa.insert(table).from_select([column.name for column in columns], nothing)
        case "UPDATE":
            return sa.update(table).values({column.name: column for column in columns}).where(sa.false())
        case "DELETE":
            return sa.delete(table).where(sa.false())
    return sa.select(table).where(sa.false())
