"""SQLite 3.35 and newer. Writing transactions begin IMMEDIATE, so they need no row locks."""

import sqlite3
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import URL, Column, ColumnElement, Connection, Engine, Executable, Select, Table, event
from sqlalchemy.dialects import sqlite
from sqlalchemy.exc import DBAPIError
from sqlalchemy.types import TypeEngine
from typing_extensions import override

from dispatcher.database.dialect import Dialect
from dispatcher.database.raw_values import Raw, instant
from dispatcher.database.statements import Assignments
from dispatcher.outbox.columns import Timestamp
from dispatcher.outbox.events import Subject

_PRIMARY_CODE_MASK = 0xFF
CACHE_KIB = 16_384
"""Page cache of each connection. With SQLite's default of 2 MiB, a step on a large database takes twice as long."""
INSTRUCTIONS_PER_CHECK = 10_000
"""A limited statement looks at the clock each time it has executed this many of SQLite's instructions, which takes about 0.1 ms."""


class Sqlite(Dialect):
    name = "sqlite"
    driver = "sqlite+pysqlite"
    extra = None
    lock_seconds = 5
    # Every other writer waits for our whole transaction, so batches are small.
    max_collected = 250
    max_claimed = 128
    max_settled = 250
    writes_in_parallel = False
    now = "strftime('%Y-%m-%d %H:%M:%f000', 'now')"

    @override
    def engine_options(self, url: URL) -> dict[str, Any]:
        # isolation_level None: the driver does not begin transactions, so that `_begin` can choose BEGIN IMMEDIATE.
        return {"connect_args": {"timeout": self.lock_seconds, "isolation_level": None, "check_same_thread": False}}

    @override
    def prepare(self, engine: Engine) -> None:
        event.listen(engine, "connect", self._set_durability)
        event.listen(engine, "connect", self._add_functions)
        event.listen(engine, "begin", _begin)

    def _set_durability(self, connection: sqlite3.Connection, _record: object) -> None:
        from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_random_exponential

        # When several connections switch a new file to WAL at once, SQLite may refuse all but one without waiting.
        retrying = Retrying(
            retry=retry_if_exception(_is_locked),
            stop=stop_after_delay(self.lock_seconds),
            wait=wait_random_exponential(multiplier=0.01, max=0.5),
            reraise=True,
        )
        retrying(connection.execute, "PRAGMA journal_mode = WAL")
        for pragma in (
            "synchronous = FULL",
            f"cache_size = -{CACHE_KIB}",
            f"busy_timeout = {self.lock_seconds * 1000}",
        ):
            connection.execute(f"PRAGMA {pragma}")

    def _add_functions(self, connection: sqlite3.Connection, _record: object) -> None:
        functions: dict[str, Callable[..., str]] = {
            "vercel_subject_key": lambda *parts: Subject(*parts).key,
            "vercel_written_at": self._written_at,
        }
        for name, function in functions.items():
            connection.create_function(name, -1, function, deterministic=True)

    def _written_at(self, raw: Raw, now: str) -> str:
        return self.instant(instant(raw, datetime.fromisoformat(now).replace(tzinfo=UTC)))

    @override
    def missing_file(self, url: URL) -> str | None:
        path = url.database or ""
        is_uri = path.startswith("file:")
        return None if is_uri or Path(path).exists() else path

    @override
    def check_durability(self, connection: Connection) -> str | None:
        mode = connection.exec_driver_sql("PRAGMA journal_mode").scalar_one()
        if mode == "wal":
            return None
        return (
            f"the journal is in mode {mode}, not WAL: your application and the dispatcher wait for each other."
            " The file must lie on a local, writable file system, not on a network share"
        )

    @override
    def is_denied(self, error: DBAPIError) -> bool:
        return getattr(error.orig, "sqlite_errorcode", 0) & _PRIMARY_CODE_MASK == sqlite3.SQLITE_READONLY

    @override
    def grant(self, connection: Connection, table: str, privileges: Sequence[str], schema: str | None) -> str:
        return f"make the file {connection.engine.url.database} and its directory writable for this user"

    @override
    def is_timeout(self, error: BaseException) -> bool:
        return getattr(getattr(error, "orig", None), "sqlite_errorcode", None) == sqlite3.SQLITE_INTERRUPT

    @override
    def cut(self, connection: Any) -> None:
        connection.interrupt()

    @override
    def is_transient(self, error: BaseException) -> bool:
        return isinstance(error, DBAPIError) and error.orig is not None and _is_locked(error.orig)

    @override
    def unfold(self, types: dict[str, TypeEngine[Any]]) -> str:
        extracted = ", ".join(f"json_extract(value, '$.{name}') AS {name}" for name in types)
        return f"SELECT {extracted} FROM json_each(:rows)"  # noqa: S608 (names of our own columns)

    @override
    def latest(self, *values: ColumnElement[Any]) -> ColumnElement[Any]:
        return sa.func.max(*values)

    @override
    def raw(self, column: ColumnElement[Any], max_characters: int) -> ColumnElement[Any]:
        # SQLite stores any bytes in any column; reading invalid UTF-8 as text makes the driver raise for the whole batch.
        return sa.func.substr(sa.cast(column, sa.LargeBinary), 1, 4 * max_characters + 4, type_=sa.LargeBinary())

    @override
    def raw_time(self, column: Column[Any]) -> ColumnElement[Any]:
        return self.raw(column, 10)

    @override
    def consists_of(self, column: ColumnElement[str], allowed: str, max_length: int) -> ColumnElement[bool]:
        length = sa.func.length(sa.cast(column, sa.LargeBinary))
        return sa.and_(
            sa.func.typeof(column) == "text",
            length.between(1, max_length),
            sa.func.length(column) == length,  # SQLite's functions read a text only up to its first U+0000
            column.bool_op("NOT GLOB")(f"*[^{allowed}]*"),
        )

    @override
    def subject_key(self, *parts: ColumnElement[Any]) -> ColumnElement[str]:
        return sa.func.vercel_subject_key(*parts, type_=sa.String())

    @override
    def written_at(self, column: Column[Any], now: ColumnElement[datetime]) -> ColumnElement[datetime]:
        return sa.func.vercel_written_at(self.raw_time(column), now, type_=Timestamp())

    @override
    def upsert(self, table: Table, source: Select[Any], assignments: Assignments) -> Executable:
        # Without a WHERE, SQLite parses the ON of ON CONFLICT as a join condition.
        insert = sqlite.insert(table).from_select([c.name for c in source.selected_columns], source.where(sa.true()))
        values = assignments(insert.excluded)
        changes = sa.or_(*(table.c[name].is_distinct_from(value) for name, value in values.items()))
        return insert.on_conflict_do_update(index_elements=list(table.primary_key), set_=values, where=changes)

    @override
    def update(
        self,
        table: Table,
        on: Sequence[Column[Any]],
        columns: Sequence[Column[Any]],
        copies: Sequence[tuple[Column[Any], Column[Any]]] = (),
    ) -> Executable:
        rows = self.rows(*on, *columns)
        same = (key == rows.c[key.name] for key in on)
        values = {column.name: rows.c[column.name] for column in columns}
        return sa.update(table).where(*same).values(values | {copy.name: original for copy, original in copies})

    @override
    def delete(self, table: Table, on: Sequence[Column[Any]]) -> Executable:
        rows, target = self.rows(*on), table.alias("target")
        (key,) = table.primary_key
        same = sa.and_(*(target.c[column.name] == rows.c[column.name] for column in on))
        return sa.delete(table).where(key.in_(sa.select(target.c[key.name]).select_from(rows.join(target, same))))

    @override
    @cache  # noqa: B019 (one instance lives as long as the program)
    def first_due(self, delivery: Table, names: Sequence[str], installations: int) -> Executable:
        rows, other = self.rows(delivery.c.installation_id), delivery.alias("other")
        due = (
            sa.select(other.c.subject_key)
            .where(other.c.installation_id == rows.c.installation_id, other.c.due_at <= self.clock())
            .order_by(other.c.due_at)
            .limit(sa.bindparam("limit", type_=sa.Integer))
            .correlate(rows)
        )
        joined = rows.join(delivery, delivery.c.subject_key.in_(due))
        return sa.select(*(delivery.c[name] for name in names)).select_from(joined)

    @override
    def first_due_parameters(self, installation_ids: Sequence[str]) -> dict[str, Any]:
        return self.encode([{"installation_id": installation_id} for installation_id in installation_ids])


def _is_locked(error: BaseException) -> bool:
    return getattr(error, "sqlite_errorcode", 0) & _PRIMARY_CODE_MASK in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}


def _begin(connection: Connection) -> None:
    # A transaction that reads first and writes later fails at once, without waiting, if another has written in between.
    options = connection.get_execution_options()
    refuses_writes = options.get("refuses_writes")
    if (seconds := options.get("statement_seconds")) is not None:
        _interrupt_after(seconds, connection.connection.driver_connection)
    if refuses_writes:
        connection.exec_driver_sql("PRAGMA query_only = ON")
    if not options.get("single_statement"):
        connection.exec_driver_sql(f"PRAGMA synchronous = {'NORMAL' if options.get('not_durable') else 'FULL'}")
        connection.exec_driver_sql("BEGIN" if refuses_writes or options.get("reads_only") else "BEGIN IMMEDIATE")


def _interrupt_after(seconds: float, connection: Any) -> None:
    """Limits everything that this connection does until the next transaction begins: SQLite has no limit for a single statement."""
    deadline = time.monotonic() + seconds
    connection.set_progress_handler(lambda: time.monotonic() > deadline, INSTRUCTIONS_PER_CHECK)
