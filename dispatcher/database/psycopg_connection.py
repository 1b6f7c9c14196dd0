"""A connection of psycopg that defers statements whose result nobody needs: they are sent in one message with the next one, or with COMMIT.

This saves a round trip each. Every statement of a message has a snapshot of its own, as if it had been sent alone; if one fails, those
after it are not executed, and the transaction must be rolled back.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Self, cast

import psycopg
from psycopg.abc import Params, Query
from typing_extensions import override


class PsycopgConnection(psycopg.Connection[Any]):
    """Its cursors must be of the class `PsycopgCursor`."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._begin: list[str] = []
        self._deferred: list[str] = []
        self._defers = False

    def begin(self, statement: str) -> None:
        """Begins a transaction with this statement, which is sent together with the first one that needs it."""
        self._begin = [statement]

    @contextmanager
    def deferring(self) -> Iterator[None]:
        """Defers the statements that are executed in the block."""
        self._defers = True
        try:
            yield
        finally:
            self._defers = False

    def defers(self, statement: str) -> bool:
        """Notes the statement if it is to be deferred. Returns whether it is."""
        if self._defers:
            self._deferred.append(statement)
        return self._defers

    def take_deferred(self) -> list[str]:
        """Returns the statements that must be executed before the next one, and forgets them."""
        taken = self._begin + self._deferred
        self._begin, self._deferred = [], []
        return taken

    @override
    def commit(self) -> None:
        if self._deferred:
            self.execute("COMMIT")
        self._begin = []
        super().commit()

    @override
    def rollback(self) -> None:
        self.take_deferred()
        super().rollback()


class PsycopgCursor(psycopg.ClientCursor[Any]):
    """Its result is that of the statement itself, not of those that were deferred."""

    @override
    def execute(
        self, query: Query, params: Params | None = None, *, prepare: bool | None = None, binary: bool | None = None
    ) -> Self:
        connection, statement = cast("PsycopgConnection", self.connection), self.mogrify(query, params)
        if connection.defers(statement):
            return self
        super().execute("; ".join([*connection.take_deferred(), statement]).encode(self.connection.info.encoding))
        while self.nextset():
            pass
        return self

    @override
    def executemany(self, query: Query, params_seq: Iterable[Params], *, returning: bool = False) -> None:
        if deferred := cast("PsycopgConnection", self.connection).take_deferred():
            super().execute("; ".join(deferred).encode(self.connection.info.encoding))
        super().executemany(query, params_seq, returning=returning)
