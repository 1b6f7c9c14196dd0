"""Tracks which thread uses which connection of an engine, so that another thread can interrupt it."""

import threading
from contextlib import suppress

from sqlalchemy import Engine, event
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.pool import ConnectionPoolEntry

from dispatcher.database.dialect import Dialect


class ConnectionsInUse:
    """The connections that are checked out of the pool, each with the thread that uses it."""

    def __init__(self, engine: Engine, dialect: Dialect) -> None:
        self._dialect = dialect
        self._users: dict[ConnectionPoolEntry, tuple[int, DBAPIConnection]] = {}
        # Before SQLAlchemy's own first queries on a new connection, which can hang as well.
        event.listen(engine, "connect", self._lend, insert=True)
        event.listen(engine, "checkout", lambda connection, entry, _proxy: self._lend(connection, entry))
        event.listen(engine, "checkin", lambda _connection, entry: self._users.pop(entry, None))

    def _lend(self, connection: DBAPIConnection, entry: ConnectionPoolEntry) -> None:
        self._users[entry] = threading.get_ident(), connection

    def cut(self, thread: int) -> None:
        """Interrupts and breaks the connections that this thread uses."""
        for user, connection in list(self._users.values()):
            if user == thread:
                with suppress(Exception):  # the connection has just been closed
                    self._dialect.cut(connection)
