"""A database and its transactions."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import TypeVar

import sqlalchemy as sa
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from dispatcher.database.dialect import Dialect
from dispatcher.database.engine import dialect_of, open_engine
from dispatcher.database.in_use import ConnectionsInUse

Result = TypeVar("Result")
MAX_TRIES = 8
SKIP_SECONDS = 60.0
"""For how long locked rows are skipped once one of them has kept a step waiting for too long."""


class UnusableIsolation(Exception):
    """The database does not grant the isolation that the protocol needs; says which it grants."""


class _StillLocked(Exception):
    """A step has waited for a locked row for as long as it may."""


class Database:
    """One engine and the dialect it speaks."""

    def __init__(
        self, engine: Engine, dialect: Dialect, schema: str | None = None, *, max_tries: int = MAX_TRIES
    ) -> None:
        self.engine = engine
        self.dialect = dialect
        self.schema = schema
        self.max_tries = max_tries
        self._in_use = ConnectionsInUse(engine, dialect)
        self._reading = engine.execution_options(reads_only=True)
        self._peeking = engine.execution_options(single_statement=True)
        self._not_durable = engine.execution_options(not_durable=True)
        self._skip_until = 0.0

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that writes nothing; on SQLite it waits for no writer."""
        with self._reading.begin() as connection:
            yield connection

    @contextmanager
    def peek(self) -> Iterator[Connection]:
        """For one statement that reads, locks nothing and is over at once: without a transaction's beginning, limits and end."""
        with self._peeking.connect() as connection:
            yield connection

    def transact(self, step: Callable[[Connection], Result], *, durable: bool = True) -> Result:
        """The step in one short transaction; as a whole again, with jitter, after a serialization failure, deadlock or lock timeout.

        `durable=False`: nothing would be lost if a crash of the database undid it, so its commit need not wait for the disk.
        Raises the last `sqlalchemy.exc.DBAPIError` after `max_tries`, and any other error at once.
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
        """The same with a step that is told whether to skip the rows which others have locked.

        It waits for them at first, because they are free again in a moment. Once it has waited in vain, it skips them for a minute: a
        session that keeps a row locked for long must not keep all the others waiting.
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
        with (self.engine if durable else self._not_durable).begin() as connection:
            return step(connection)

    def check_isolation(self) -> None:
        """Raises UnusableIsolation if a proxy or the server's own settings take back what every connection asks for."""
        with self.read() as connection:
            wrong = self.dialect.check_isolation(connection)
        if wrong is not None:
            raise UnusableIsolation(wrong)

    def is_cluster(self) -> bool:
        """Whether other nodes take writes as well, whose row locks this one does not see."""
        with self.read() as connection:
            return self.dialect.is_cluster(connection)

    def now(self) -> datetime:
        """The database's clock."""
        with self.read() as connection:
            time: datetime = connection.execute(sa.select(self.dialect.clock())).scalar_one()
        return time

    def cut_connections(self, thread: int) -> None:
        """Shuts down the sockets of the connections that this thread uses, so that whatever it waits for ends with an error."""
        self._in_use.cut(thread)

    def close(self) -> None:
        """Closes every connection."""
        self.engine.dispose()


def open_database(url: str, schema: str | None = None) -> Database:
    """See `dispatcher.database.engine.open_engine`."""
    return Database(open_engine(url, schema), dialect_of(url), schema)
