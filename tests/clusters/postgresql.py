"""Two PostgreSQL servers: a primary and its standby, which can be promoted, cut off, and made again from the other."""

import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg

from tests.clusters.daemon import Daemon, wait_until
from tests.contract.servers import POSTGRESQL, _free_port

DATABASE = "partner"
SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "fsync": "off",
    "max_connections": 100,
    "wal_level": "replica",
    "hot_standby": "on",
    "max_wal_senders": 5,
    "wal_keep_size": "256MB",
}
PROGRAMS = Path(str(POSTGRESQL)).parent


class Server:
    """One PostgreSQL."""

    def __init__(self, number: int, directory: Path) -> None:
        self.number = number
        self.data = directory / f"n{number}" / "data"
        self.data.parent.mkdir()
        shutil.chown(self.data.parent, "postgres", "postgres")
        self.port = _free_port()
        self.daemon = Daemon(f"n{number}", directory, user="postgres")
        self.name = self.daemon.name
        self.url = f"postgresql://postgres@127.0.0.1:{self.port}/{DATABASE}"

    def install(self, settings: Mapping[str, object] = SETTINGS) -> None:
        """Makes an empty primary."""
        as_postgres(
            PROGRAMS / "initdb", f"--pgdata={self.data}", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync"
        )
        lines = [f"{name} = '{value}'" for name, value in settings.items()]
        with (self.data / "postgresql.conf").open("a") as file:
            file.write("\n".join(["", *lines, ""]))

    def follow(self, primary: "Server", name: str) -> None:
        """Makes it a copy of the primary, which follows it under this name. Its old files are removed."""
        shutil.rmtree(self.data, ignore_errors=True)
        source = f"host=127.0.0.1 port={primary.port} user=postgres application_name={name}"
        as_postgres(
            PROGRAMS / "pg_basebackup",
            f"--pgdata={self.data}",
            f"--dbname={source}",
            "--write-recovery-conf",
            "--checkpoint=fast",
            "--no-sync",
        )
        self.start()

    def start(self) -> None:
        command: list[str | Path] = [
            PROGRAMS / "postgres",
            "-D",
            self.data,
            "-c",
            f"port={self.port}",
            "-c",
            f"unix_socket_directories={self.data.parent}",
        ]
        self.daemon.start(command)
        wait_until(self.answers, f"{self.name} answers")

    def answers(self) -> bool:
        assert self.daemon.is_running, self.daemon.log.read_text()[-4000:]
        with suppress(psycopg.Error):
            return self.ask("SELECT 1", database="postgres") == [(1,)]
        return False

    def ask(self, statement: str, database: str = DATABASE) -> list[tuple[object, ...]]:
        """Runs a statement in a transaction of its own; returns the rows."""
        with psycopg.connect(
            host="127.0.0.1", port=self.port, user="postgres", dbname=database, autocommit=True, connect_timeout=5
        ) as connection:
            cursor = connection.execute(statement)
            return list(cursor.fetchall()) if cursor.description else []

    def change(self, **settings: str) -> None:
        """Changes settings of the running server."""
        for name, value in settings.items():
            self.ask(f"ALTER SYSTEM SET {name} = '{value}'")
        self.ask("SELECT pg_reload_conf()")

    def promote(self) -> None:
        """Makes the standby the primary; returns once it takes writes."""
        self.ask("SELECT pg_promote(wait => true, wait_seconds => 60)")
        wait_until(lambda: self.ask("SELECT pg_is_in_recovery()") == [(False,)], f"{self.name} is promoted")

    def stop(self) -> None:
        self.daemon.stop(signal.SIGINT)  # a fast shutdown


class Pair:
    """A primary, and a standby that follows it synchronously or asynchronously."""

    def __init__(self, directory: Path, *, is_synchronous: bool) -> None:
        self._is_synchronous = is_synchronous
        self.primary, self.standby = Server(1, directory), Server(2, directory)
        ports = ",".join(f"127.0.0.1:{one.port}" for one in (self.primary, self.standby))
        self.url = f"postgresql://postgres@{ports}/{DATABASE}?target_session_attrs=read-write"
        """Leads to whichever of the two is the primary."""

    def start(self) -> None:
        self.primary.install()
        self.primary.start()
        self.primary.ask(f"CREATE DATABASE {DATABASE}", database="postgres")
        self._follow()

    def _follow(self) -> None:
        self.standby.follow(self.primary, self.standby.name)
        attached = "SELECT 1 FROM pg_stat_replication WHERE state = 'streaming'"
        wait_until(lambda: self.primary.ask(attached), f"{self.standby.name} follows")
        if self._is_synchronous:
            self.primary.change(synchronous_standby_names=f"{self.standby.name}")
            wait_until(
                lambda: self.primary.ask(f"{attached} AND sync_state = 'sync'"), f"{self.standby.name} is synchronous"
            )

    def cut_standby_off(self) -> None:
        """From now on the standby receives nothing more."""
        self.standby.change(primary_conninfo=f"host=127.0.0.1 port={_free_port()}")
        wait_until(lambda: not self.primary.ask("SELECT 1 FROM pg_stat_replication"), f"{self.standby.name} is cut off")

    def fail_over(self) -> None:
        """Kills the primary, as when its machine loses power, and promotes the standby."""
        self.primary.daemon.kill()
        self.primary, self.standby = self.standby, self.primary
        self.primary.promote()
        self.primary.change(synchronous_standby_names="")

    def freeze_over(self) -> None:
        """Freezes the primary for good, and promotes the standby. Its connections stay open."""
        self.primary.daemon.freeze()
        self.primary, self.standby = self.standby, self.primary
        self.primary.promote()
        self.primary.change(synchronous_standby_names="")

    def rebuild(self) -> None:
        """Makes the former primary a standby of the present one."""
        self._follow()

    def end(self) -> None:
        for server in (self.primary, self.standby):
            if server.daemon.is_running:
                server.daemon.kill()


@contextmanager
def own_pair(*, is_synchronous: bool) -> Iterator[Pair]:
    """Yields a running pair; it is killed and removed at the end."""
    with tempfile.TemporaryDirectory(prefix="dispatcher-postgresql-") as name:
        Path(name).chmod(0o755)
        pair = Pair(Path(name), is_synchronous=is_synchronous)
        try:
            pair.start()
            yield pair
        finally:
            pair.end()


def as_postgres(*command: str | Path) -> None:
    """Runs a command to its end as the user who owns the server's files."""
    words = [str(word) for word in command]
    done = subprocess.run(
        words,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        user="postgres",
        group="postgres",
        extra_groups=[],
        cwd="/",
    )
    assert done.returncode == 0, done.stdout
