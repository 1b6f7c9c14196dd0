"""A MariaDB server that can be killed and started again."""

import shutil
import socket
import subprocess
from contextlib import suppress
from pathlib import Path

import pymysql
from sqlalchemy import URL

from tests.clusters.daemon import Daemon, program, wait_until

DATABASE, USER, PASSWORD = "partner", "partner", "secret-of-the-test"


class Mariadb:
    """One server, in a directory of its own."""

    def __init__(self, name: str, directory: Path, host: str, port: int) -> None:
        self.name = name
        self.host, self.port = host, port
        self._directory = directory / name
        self._directory.mkdir()
        shutil.chown(self._directory, "mysql", "mysql")
        self.daemon = Daemon(name, directory)
        self.url = URL.create("mysql", USER, PASSWORD, host, port, DATABASE).render_as_string(hide_password=False)

    def install(self) -> None:
        """Makes the files of an empty server."""
        command = ["mariadb-install-db", *self._files, "--auth-root-authentication-method=normal", "--skip-test-db"]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        assert done.returncode == 0, done.stdout

    def start(self) -> None:
        """Starts the server; returns once it answers."""
        self.daemon.start(self._command())
        wait_until(self.answers, f"{self.name} answers")

    def create_partner(self) -> None:
        """Creates the partner's database and user, and a user for health checks."""
        self.ask(f"CREATE DATABASE {DATABASE}")
        self.ask(f"CREATE USER {USER}@'%' IDENTIFIED BY '{PASSWORD}'")
        self.ask(f"GRANT ALL ON {DATABASE}.* TO {USER}@'%'")
        self.ask("CREATE USER checker@'%'")

    def answers(self) -> bool:
        assert self.daemon.is_running, self.daemon.log.read_text()[-4000:]
        with suppress(pymysql.Error, OSError):
            return self.ask("SELECT 1") == [(1,)]
        return False

    def ask(self, statement: str) -> list[tuple[object, ...]]:
        """Runs a statement as the server's administrator, over its socket; returns the rows."""
        connection = pymysql.connect(user="root", autocommit=True, read_timeout=30, defer_connect=True)
        with socket.socket(socket.AF_UNIX) as opened:  # PyMySQL leaves one that is refused to the garbage collector
            opened.settimeout(5)
            opened.connect(f"{self._directory}/socket")
            connection.connect(opened)
            with connection, connection.cursor() as cursor:
                cursor.execute(statement)
                return list(cursor.fetchall())

    def clock(self) -> float:
        """Returns the server's time, in epoch seconds."""
        return float(str(self.ask("SELECT unix_timestamp(now(6))")[0][0]))

    def end_connections(self) -> None:
        """Ends every connection of the partner's user."""
        self.ask(f"KILL USER {USER}")

    def _command(self, *options: str) -> list[str]:
        settings = [
            f"--bind-address={self.host}",
            f"--port={self.port}",
            f"--socket={self._directory}/socket",
            f"--pid-file={self._directory}/pid",
            "--skip-name-resolve",
            "--character-set-server=utf8mb4",
            "--innodb-flush-log-at-trx-commit=2",  # not lost when only the server dies
            "--innodb-buffer-pool-size=64M",
        ]
        return [program("mariadbd"), *self._files, *settings, *options]

    @property
    def _files(self) -> list[str]:
        # A server that starts removes all temporary tables in its directory, even those of other servers.
        return ["--no-defaults", f"--datadir={self._directory}/data", f"--tmpdir={self._directory}", "--user=mysql"]
