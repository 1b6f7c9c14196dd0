"""A database and its transactions."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from dispatcher.dialects import Dialect, dialect_of, open_engine

Result = TypeVar("Result")
TRIES = 8


class Database:
    """One engine and the dialect it speaks."""

    def __init__(self, engine: Engine, dialect: Dialect, schema: str | None = None) -> None:
        self.engine = engine
        self.dialect = dialect
        self.schema = schema

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that writes nothing; on SQLite it waits for no writer."""
        with self.engine.connect().execution_options(reads_only=True) as connection, connection.begin():
            yield connection

    def transact(self, step: Callable[[Connection], Result]) -> Result:
        """The step in one short transaction; as a whole again, with jitter, after a serialization failure, deadlock or lock timeout.

        Raises the last `sqlalchemy.exc.DBAPIError` after 8 tries, and any other error at once.
        """
        retrying = Retrying(
            retry=retry_if_exception(self.dialect.is_transient),
            stop=stop_after_attempt(TRIES),
            wait=wait_random_exponential(multiplier=0.01, max=0.5),
            reraise=True,
        )
        result: Result = retrying(self._once, step)
        return result

    def _once(self, step: Callable[[Connection], Result]) -> Result:
        with self.engine.begin() as connection:
            return step(connection)

    def close(self) -> None:
        """Closes every connection."""
        self.engine.dispose()


def open_database(url: str, schema: str | None = None) -> Database:
    """See `dispatcher.dialects.open_engine`."""
    return Database(open_engine(url, schema), dialect_of(url), schema)


def is_unreachable(error: BaseException) -> bool:
    """Whether the database did not answer (as opposed to: it answered that something is wrong)."""
    return isinstance(error, DBAPIError) and (error.connection_invalidated or _never_connected(error))


def _never_connected(error: DBAPIError) -> bool:
    return error.statement is None
