"""A database and its transactions."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy import Column, ColumnElement, Connection, Engine, Table
from sqlalchemy.exc import DBAPIError
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from dispatcher.database.dialect import Dialect
from dispatcher.database.engine import dialect_of, open_engine
from dispatcher.database.in_use import ConnectionsInUse

Result = TypeVar("Result")
MAX_TRIES = 8
SKIP_SECONDS = 60.0
"""How long locked rows are skipped after a lock timeout."""


class UnusableIsolation(Exception):
    """The database does not grant the isolation that the protocol needs. The message names the level it grants."""


class _StillLocked(Exception):
    """A step ran into the lock timeout."""


class Database:
    """One engine, its dialect, and the ways to run a transaction on it."""

    def __init__(
        self,
        engine: Engine,
        dialect: Dialect,
        schema: str | None = None,
        *,
        max_tries: int = MAX_TRIES,
        statement_seconds: int | None = None,
        read_only: bool = False,
    ) -> None:
        """`statement_seconds`: a shorter limit for each statement than the dialect's; on SQLite, for all statements of a transaction.
        `read_only`: the database itself refuses writes in each transaction.
        """
        limits: dict[str, int] = {}
        if statement_seconds is not None:
            limits["statement_seconds"] = statement_seconds
        if read_only:
            limits["refuses_writes"] = True
        if limits:
            engine = engine.execution_options(**limits)
        self.engine = engine
        self.dialect = dialect
        self.schema = schema
        self.max_tries = max_tries
        self.lacking: frozenset[Column[Any]] = frozenset()
        """Columns that the database lacks because its schema is older than this program, which works without them; see `schema.check`."""
        self._in_use = ConnectionsInUse(engine, dialect)
        self._transacting = engine.execution_options(begins_late=True)
        self._reading = self._transacting.execution_options(reads_only=True)
        # The limits hold within a transaction only.
        self._peeking = self._reading if limits else engine.execution_options(single_statement=True)
        self._not_durable = self._transacting.execution_options(not_durable=True)
        self._skip_until = 0.0

    def has(self, *columns: Column[Any]) -> bool:
        """Whether the database has these columns, which a later revision may have added."""
        return self.lacking.isdisjoint(columns)

    def columns(self, table: Table) -> list[ColumnElement[Any]]:
        """Returns the table's columns to select: those that the database lacks are NULL."""
        return [
            column if self.has(column) else sa.cast(sa.null(), column.type).label(column.name) for column in table.c
        ]

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Opens a read-only transaction; on SQLite it does not wait for writers."""
        with self._reading.begin() as connection:
            yield connection

    @contextmanager
    def peek(self) -> Iterator[Connection]:
        """Opens a connection for one short statement that reads and locks nothing, without BEGIN, time limits and COMMIT."""
        with self._peeking.connect() as connection:
            yield connection

    def transact(self, step: Callable[[Connection], Result], *, durable: bool = True) -> Result:
        """Runs the step in one short transaction. Retries it as a whole, with jitter, after a transient error (`is_transient`).

        `durable=False`: the commit does not wait for the disk, because nothing is lost if a crash of the database undoes it.
        Raises the last `sqlalchemy.exc.DBAPIError` after `max_tries`, and any other error immediately.
        """
        retrying = Retrying(
            retry=retry_if_exception(self.dialect.is_transient),
            stop=stop_after_attempt(self.max_tries),
            wait=wait_random_exponential(multiplier=0.01, max=0.5),
            reraise=True,
        )
        result: Result = retrying(self._once, step, durable)
        return result

    def transact_around_locks(self, step: Callable[[Connection, bool], Result], *, durable: bool = True) -> Result:
        """Like `transact`; the step also receives whether to skip locked rows.

        At first it waits for them, because most are unlocked again in a moment. After a lock timeout it skips locked rows for
        `SKIP_SECONDS`: one session that holds a row for long must not delay all other rows.
        """
        if time.monotonic() >= self._skip_until:
            try:
                return self.transact(lambda connection: self._wait(step, connection), durable=durable)
            except _StillLocked:
                self._skip_until = time.monotonic() + SKIP_SECONDS
        return self.transact(lambda connection: step(connection, True), durable=durable)

    def _wait(self, step: Callable[[Connection, bool], Result], connection: Connection) -> Result:
        try:
            return step(connection, False)
        except DBAPIError as error:
            if self.dialect.is_lock_timeout(error):
                raise _StillLocked from error
            raise

    def _once(self, step: Callable[[Connection], Result], durable: bool) -> Result:
        with (self._transacting if durable else self._not_durable).begin() as connection:
            return step(connection)

    def check_isolation(self) -> None:
        """Raises UnusableIsolation if a proxy or the server's own settings override the isolation level we request."""
        with self.read() as connection:
            wrong = self.dialect.check_isolation(connection)
        if wrong is not None:
            raise UnusableIsolation(wrong)

    def is_cluster(self) -> bool:
        """See `Dialect.is_cluster`."""
        with self.read() as connection:
            return self.dialect.is_cluster(connection)

    def now(self) -> datetime:
        """Returns the time by the database's clock."""
        with self.read() as connection:
            now: datetime = connection.execute(sa.select(self.dialect.clock())).scalar_one()
        return now

    def cut_connections(self, thread: int) -> None:
        """Shuts down the connections that this thread is using, so that its current wait ends with an error."""
        self._in_use.cut(thread)

    def close(self) -> None:
        self.engine.dispose()


def open_database(
    url: str, schema: str | None = None, *, statement_seconds: int | None = None, read_only: bool = False
) -> Database:
    """Opens a database; see `dispatcher.database.engine.open_engine` and `Database`."""
    engine = open_engine(url, schema)
    return Database(engine, dialect_of(url), schema, statement_seconds=statement_seconds, read_only=read_only)
