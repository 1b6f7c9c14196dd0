"""Simulated row locks for SQLite, which has none. Its statements still contain which rows a server would lock, and whether to wait."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, Select, UpdateBase, event
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import DBAPIError, OperationalError

from dispatcher.database.sqlite import Sqlite
from dispatcher.database.transactions import Database
from dispatcher.outbox.tables import metadata

_EXEMPT = "does_not_lock"


class LockTimeout(Exception):
    """The error of a server whose lock timeout has expired."""


class WithRowLocks(Sqlite):
    """The SQLite dialect, which also recognizes the simulated lock timeout."""

    def is_lock_timeout(self, error: BaseException) -> bool:
        return isinstance(error, DBAPIError) and isinstance(error.orig, LockTimeout)


def with_row_locks(database: Database) -> Database:
    """Returns the same SQLite database with steps that give up waiting for a locked row at once."""
    return Database(database.engine, WithRowLocks())


@contextmanager
def locked_by_another(database: Database, key: sa.Column[Any], value: object) -> Iterator[None]:
    """Simulates another session that has this row locked: a statement that waits for it times out; `SKIP LOCKED` does not see it."""
    table, row = key.table, key == value

    def before(connection: Connection, statement: Any, several: Any, one: Any, options: Any) -> Any:
        if isinstance(statement, UpdateBase):
            if statement.table is table and f'"{value}"' in one.get("rows", ""):
                raise OperationalError(None, None, LockTimeout())
            return statement, several, one
        lock = _lock_of(statement)
        if lock is not None and table.name in lock and not options.get(_EXEMPT):
            if "SKIP LOCKED" in lock:
                statement = statement.where(sa.not_(row))
            elif connection.execute(statement.where(row), one, execution_options={_EXEMPT: True}).first():
                raise OperationalError(None, None, LockTimeout())
        return statement, several, one

    event.listen(database.engine, "before_execute", before, retval=True)
    try:
        yield
    finally:
        event.remove(database.engine, "before_execute", before)


@contextmanager
def locking(database: Database) -> Iterator[list[str]]:
    """Records the locks in their order: the locked tables, and whether the statement waits or skips."""
    locks: list[str] = []

    def before(_connection: Connection, statement: Any, *_: Any) -> None:
        if (lock := _lock_of(statement)) is not None:
            locks.append(lock)

    event.listen(database.engine, "before_execute", before)
    try:
        yield locks
    finally:
        event.remove(database.engine, "before_execute", before)


def _lock_of(statement: Any) -> str | None:
    """Returns the lock in a form such as `vercel_installation SKIP LOCKED`; None if the statement locks nothing."""
    if not isinstance(statement, Select):
        return None
    server = postgresql.dialect()  # type: ignore[no-untyped-call]  # untyped
    text, for_update, lock = str(statement.compile(dialect=server)).partition(" FOR UPDATE")
    if not for_update:
        return None
    named = re.search(r"OF (\w+)", lock)
    tables = [named[1]] if named else [name for name in metadata.tables if re.search(rf"FROM {name}\b", text)]
    return " ".join([*tables, *re.findall("SKIP LOCKED", lock)])
