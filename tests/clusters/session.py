"""A partner's own connection: the bare driver, without any of the project's code."""

import os
import socket
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from typing import Any

import psycopg
import pymysql
from pymysql.constants import CLIENT
from sqlalchemy import make_url

DriverError = (psycopg.Error, pymysql.Error, sqlite3.Error, OSError)
CONNECT_SECONDS = 3
ANSWER_SECONDS = 10
"""After this time a server that does not answer is given up."""


class SqliteCursor(sqlite3.Cursor):
    """Takes the parameters' marks of the other drivers."""

    def execute(self, statement: str, parameters: Any = (), /) -> "SqliteCursor":
        super().execute(statement.replace("%s", "?"), parameters)
        return self

    def executemany(self, statement: str, parameters: Any, /) -> "SqliteCursor":
        super().executemany(statement.replace("%s", "?"), parameters)
        return self


class SqliteConnection(sqlite3.Connection):
    """Has such cursors."""

    def cursor(self) -> SqliteCursor:  # type: ignore[override] # without a factory
        return super().cursor(SqliteCursor)


def connect(url: str) -> Any:
    """Opens a connection that starts transactions by itself. Threads may use it by turns."""
    if url.startswith("postgresql"):
        limits = f"-c statement_timeout={ANSWER_SECONDS}s"
        return psycopg.connect(
            url, connect_timeout=CONNECT_SECONDS, options=limits, tcp_user_timeout=ANSWER_SECONDS * 1000
        )
    parts = make_url(url)
    if parts.get_backend_name() == "sqlite":
        return sqlite3.connect(
            str(parts.database), timeout=ANSWER_SECONDS, factory=SqliteConnection, check_same_thread=False
        )
    return pymysql.connect(
        host=parts.host,
        port=parts.port or 3306,
        user=parts.username,
        password=parts.password or "",
        database=parts.database,
        connect_timeout=CONNECT_SECONDS,
        read_timeout=ANSWER_SECONDS,
        write_timeout=ANSWER_SECONDS,
        client_flag=CLIENT.FOUND_ROWS,
    )


class Session:
    """Connections that are opened when needed, and thrown away after an error. Threads share them, as an application's do."""

    def __init__(self, url: str, *first: str) -> None:
        """`first` are statements for each new connection."""
        self.url = url
        self._first = first
        self._idle: list[Any] = []
        self._is_closed = False

    @contextmanager
    def transaction(self) -> Iterator[Any]:
        """Yields a cursor; commits at the end. Raises one of DriverError; then the commit may or may not have happened."""
        try:
            connection = self._idle.pop()
        except IndexError:
            connection = self._open()
        try:
            with _limited(connection):
                with closing(connection.cursor()) as cursor:
                    yield cursor
                connection.commit()
        except BaseException:
            with suppress(*DriverError):
                connection.close()
            raise
        self._idle.append(connection)
        if self._is_closed:
            self.close()

    def _open(self) -> Any:
        connection = connect(self.url)
        try:
            with _limited(connection), closing(connection.cursor()) as cursor:
                for statement in self._first:
                    cursor.execute(statement)
        except BaseException:
            connection.close()
            raise
        return connection

    def close(self) -> None:
        """Closes the connections; one that is in use, when it no longer is."""
        self._is_closed = True
        while self._idle:
            with suppress(*DriverError):
                self._idle.pop().close()


@contextmanager
def _limited(connection: Any) -> Iterator[None]:
    """Ends a connection whose server has not let the block end in time: libpq has no time limit of its own."""
    if not isinstance(connection, psycopg.Connection):
        yield
        return
    timer = threading.Timer(ANSWER_SECONDS, _shut_down, [connection])
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _shut_down(connection: psycopg.Connection[Any]) -> None:
    with suppress(psycopg.Error, OSError), socket.socket(fileno=os.dup(connection.fileno())) as duplicate:
        duplicate.shutdown(socket.SHUT_RDWR)
