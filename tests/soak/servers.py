"""The three databases of the soak: servers that can be killed and started again, and a file."""

from contextlib import suppress
from pathlib import Path
from typing import Protocol

import psycopg

from tests.clusters.mariadb import Mariadb
from tests.clusters.postgresql import DATABASE, Server
from tests.contract.servers import _free_port


class Database(Protocol):
    """A database under test."""

    name: str
    url: str

    def restart(self) -> None:
        """Kills the server and starts it again; does nothing if there is none."""

    def end_connections(self) -> None:
        """Ends every connection of the partner and of the dispatchers."""


class Sqlite:
    """A file."""

    name = "SQLite"

    def __init__(self, directory: Path) -> None:
        self.url = f"sqlite:///{directory}/soak.db"

    def restart(self) -> None:
        pass

    def end_connections(self) -> None:
        pass


class Postgresql:
    """A server of its own."""

    name = "PostgreSQL"

    def __init__(self, directory: Path) -> None:
        self.server = Server(1, directory)
        self.url = self.server.url
        self.server.install()
        self.server.start()
        self.server.ask(f"CREATE DATABASE {DATABASE}", database="postgres")

    def restart(self) -> None:
        self.server.daemon.kill()
        self.server.start()

    def end_connections(self) -> None:
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

    def restart(self) -> None:
        self.server.daemon.kill()
        self.server.start()

    def end_connections(self) -> None:
        self.server.end_connections()
