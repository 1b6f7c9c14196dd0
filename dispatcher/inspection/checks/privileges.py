"""Checks what the database's user may do, with statements that touch no row and are rolled back."""

from collections.abc import Iterator, Sequence
from enum import Enum, auto
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Column, Executable, Table
from sqlalchemy.exc import DBAPIError

from dispatcher.database import schema
from dispatcher.database.errors import is_unreachable
from dispatcher.database.schema import UnusableSchema
from dispatcher.database.transactions import Database
from dispatcher.inspection.checks.finding import Finding, ok, problem, warning
from dispatcher.outbox.tables import VERSION_TABLE, attempt, collector, metadata, outbox

_ALL = ("SELECT", "INSERT", "UPDATE", "DELETE")
_FEWER: dict[Table, tuple[str, ...]] = {
    outbox: ("SELECT", "INSERT", "DELETE"),
    collector: ("SELECT", "INSERT", "UPDATE"),
    attempt: ("SELECT", "INSERT", "DELETE"),
    Table(VERSION_TABLE, sa.MetaData(), sa.Column("version_num", sa.String)): ("SELECT",),
}


class _Verdict(Enum):
    ALLOWED = auto()
    DENIED = auto()


def needed() -> dict[Table, tuple[str, ...]]:
    """Returns the privileges that the dispatcher's user needs, by table."""
    return {**dict.fromkeys(metadata.tables.values(), _ALL), **_FEWER}


def check_privileges(database: Database) -> Iterator[Finding]:
    """Reports the missing GRANT of each table. Tables that do not exist are left to `check_tables`."""
    _note_what_is_lacking(database)
    tried = {table: {one: _try(database, table, one) for one in wanted} for table, wanted in needed().items()}
    if not any(verdict for verdicts in tried.values() for verdict in verdicts.values()):
        yield ok("privileges", "not tried: the tables are not there")
        return
    denied = [
        (table, missing)
        for table, verdicts in tried.items()
        if (missing := [privilege for privilege, verdict in verdicts.items() if verdict is _Verdict.DENIED])
    ]
    with database.read() as connection:
        for table, missing in denied:
            grant = database.dialect.grant(connection, table.name, missing, database.schema)
            report = warning if schema.is_addition(table) else problem  # without an addition, the rest works
            yield report("privileges", f"the database's user lacks a privilege: {grant}")
    if not denied:
        yield ok("privileges", "the database's user may do everything that the dispatcher does")


def _note_what_is_lacking(database: Database) -> None:
    """An older schema lacks columns and tables, which the statements below must not name."""
    try:
        schema.check(database)
    except UnusableSchema:
        pass  # reported by `check_tables`
    except DBAPIError as error:
        if not database.dialect.is_denied(error):
            raise


def _try(database: Database, table: Table, privilege: str) -> _Verdict | None:
    """Returns None if the statement fails for another reason, such as a missing table, or if the schema is too old for the table."""
    columns = [column for column in table.c if database.has(column)]
    if not columns:
        return None
    try:
        with database.engine.connect() as connection:  # no commit: it is rolled back
            connection.execute(_attempt(table, columns, privilege))
    except DBAPIError as error:
        if is_unreachable(error):
            raise
        return _Verdict.DENIED if database.dialect.is_denied(error) else None
    return _Verdict.ALLOWED


def _attempt(table: Table, columns: Sequence[Column[Any]], privilege: str) -> Executable:
    """Returns a statement that needs the privilege and matches no row."""
    written = [column for column in columns if column.identity is None]
    match privilege:
        case "INSERT":
            nothing = sa.select(*written).where(sa.false())
            return sa.insert(table).from_select([column.name for column in written], nothing)
        case "UPDATE":
            return sa.update(table).values({column.name: column for column in written}).where(sa.false())
        case "DELETE":
            return sa.delete(table).where(sa.false())
    return sa.select(*columns).where(sa.false())
