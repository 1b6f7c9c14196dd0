"""The three databases of the soak: servers that can be killed and started again, and a file."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import psycopg

from tests.clusters.mariadb import Mariadb
from tests.clusters.postgresql import DATABASE, Server
from tests.contract.servers import _free_port

Faults = Mapping[str, Callable[[], None]]


class Database(Protocol):
    """A database under test."""

    name: str
    url: str
    faults: Faults
    """Those of the database itself, by name."""


class Sqlite:
    """A file."""

    name = "SQLite"

    def __init__(self, directory: Path) -> None:
        self.url = f"sqlite:///{directory}/soak.db"
        self.faults: Faults = {}


class Postgresql:
    """A server of its own."""

    name = "PostgreSQL"

    def __init__(self, directory: Path) -> None:
        self.server = Server(1, directory)
        self.url = self.server.url
        self.server.install()
        self.server.start()
        self.server.ask(f"CREATE DATABASE {DATABASE}", database="postgres")
        self.faults: Faults = {
            "restart the database": lambda: _restart(self.server),
            "end connections": self._end_connections,
        }

    def _end_connections(self) -> None:
        others = f"datname = '{DATABASE}' AND pid <> pg_backend_pid()"
        with suppress(psycopg.Error):
            self.server.ask(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {others}")


class MariadbServer:
    """A server of its own."""

    name = "MariaDB"

    def __init__(self, directory: Path) -> None:
        self.server = Mariadb("mariadb", directory, "127.0.0.1", _free_port())
        self.url = self.server.url
        self.server.install()
        self.server.start()
        self.server.create_partner()
        self.faults: Faults = {
            "restart the database": lambda: _restart(self.server),
            "end connections": self.server.end_connections,
        }


def _restart(server: Server | Mariadb) -> None:
    server.daemon.kill()
    server.start()
