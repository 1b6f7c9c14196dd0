"""Two PostgreSQL servers under Patroni, which keeps its state in etcd and chooses the primary itself."""

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import psutil
import psycopg

from tests.clusters.daemon import Daemon, program, wait_until
from tests.clusters.postgresql import DATABASE, PROGRAMS
from tests.contract.servers import _free_port

TTL_SECONDS = 20
"""How long Patroni waits before it replaces a primary of which it hears nothing; no less is allowed."""
SCOPE = "dispatcher"
NAMES = ("p1", "p2")
HTTP = httpx.Client(trust_env=False, timeout=10)


class Member:
    """Patroni and its PostgreSQL."""

    def __init__(self, name: str, directory: Path, etcd_port: int) -> None:
        self.name = name
        self._directory = directory / name
        self._data = self._directory / "data"
        self._directory.mkdir()
        shutil.chown(self._directory, "postgres", "postgres")
        self.port, self.rest_port = _free_port(), _free_port()
        self.daemon = Daemon(name, directory, user="postgres")
        self._file = directory / f"{name}.json"  # which is YAML as well
        self._file.write_text(json.dumps(self._settings(etcd_port)))

    def _settings(self, etcd_port: int) -> dict[str, object]:
        parameters = {
            "fsync": "off",
            "max_connections": 100,
            "unix_socket_directories": str(self._directory),
            "wal_keep_size": "256MB",
        }
        user = {"username": "postgres", "password": "any-will-do"}
        return {
            "scope": SCOPE,
            "name": self.name,
            "etcd3": {"host": f"127.0.0.1:{etcd_port}"},
            "restapi": {"listen": f"127.0.0.1:{self.rest_port}", "connect_address": f"127.0.0.1:{self.rest_port}"},
            "bootstrap": {
                "dcs": {
                    "ttl": TTL_SECONDS,
                    "loop_wait": 2,
                    "retry_timeout": 5,
                    "synchronous_mode": True,
                    "postgresql": {"use_pg_rewind": True, "parameters": parameters},
                },
                "initdb": ["no-sync", {"encoding": "UTF8"}, {"locale": "C"}, {"auth": "trust"}],
                "pg_hba": [
                    "local all all trust",
                    "host all all 127.0.0.1/32 trust",
                    "host replication all 127.0.0.1/32 trust",
                ],
            },
            "postgresql": {
                "listen": f"127.0.0.1:{self.port}",
                "connect_address": f"127.0.0.1:{self.port}",
                "data_dir": str(self._data),
                "bin_dir": str(PROGRAMS),
                "pgpass": str(self._directory / "pgpass"),
                "authentication": {"superuser": user, "replication": user, "rewind": user},
                "parameters": parameters,
            },
        }

    def start(self) -> None:
        self.daemon.start([program("patroni"), self._file])

    def kill(self) -> None:
        """Kills Patroni and its PostgreSQL, which is no child of Patroni's, as when their machine loses power."""
        if self.daemon.is_running:
            self.daemon.kill()
        servers = [one for one in psutil.process_iter(["cmdline"]) if str(self._data) in (one.info["cmdline"] or [])]
        for server in servers:
            with suppress(psutil.NoSuchProcess):
                for one in [server, *server.children(recursive=True)]:
                    one.kill()
        psutil.wait_procs(servers)

    def is_primary(self) -> bool:
        return self._answer("primary") == 200

    def is_synchronous_standby(self) -> bool:
        return self._answer("synchronous") == 200

    def _answer(self, role: str) -> int:
        with suppress(httpx.HTTPError):
            return HTTP.get(f"http://127.0.0.1:{self.rest_port}/{role}").status_code
        return 0


class Patroni:
    """The members and their etcd."""

    def __init__(self, directory: Path) -> None:
        self._etcd = Daemon("etcd", directory)
        self._etcd_directory = directory / "etcd"
        self._etcd_port = _free_port()
        self.members = [Member(name, directory, self._etcd_port) for name in NAMES]
        self.check = "option httpchk OPTIONS /primary\n    http-check expect status 200"

    @property
    def backends(self) -> list[str]:
        """The lines of HAProxy for its members: only the primary passes the check."""
        return [f"{one.name} 127.0.0.1:{one.port} port {one.rest_port}" for one in self.members]

    def start(self) -> None:
        self._start_etcd()
        for member in self.members:
            member.start()
        wait_until(self.is_complete, "Patroni has a primary and a synchronous standby")
        with psycopg.connect(host="127.0.0.1", port=self.primary.port, user="postgres", autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {DATABASE}")

    def _start_etcd(self) -> None:
        peer_port = _free_port()
        own, peer = f"http://127.0.0.1:{self._etcd_port}", f"http://127.0.0.1:{peer_port}"
        urls = [f"--listen-client-urls={own}", f"--advertise-client-urls={own}", f"--listen-peer-urls={peer}"]
        urls += [f"--initial-advertise-peer-urls={peer}", f"--initial-cluster=default={peer}"]
        self._etcd.start([program("etcd"), f"--data-dir={self._etcd_directory}", "--unsafe-no-fsync", *urls])
        wait_until(lambda: self._etcd.is_running and self._etcd_answers(), "etcd answers")

    def _etcd_answers(self) -> bool:
        with suppress(httpx.HTTPError):
            return HTTP.get(f"http://127.0.0.1:{self._etcd_port}/health").status_code == 200
        return False

    @property
    def primary(self) -> Member:
        return next(member for member in self.members if member.is_primary())

    def is_complete(self) -> bool:
        """Whether there is a primary, and a standby without whose consent it commits nothing."""
        return any(one.is_primary() for one in self.members) and any(
            one.is_synchronous_standby() for one in self.members
        )

    def switch_over(self) -> None:
        """Asks Patroni to exchange the roles; returns when it has."""
        old = self.primary
        answer = HTTP.post(f"http://127.0.0.1:{old.rest_port}/switchover", json={"leader": old.name}, timeout=90)
        assert answer.status_code == 200, answer.text
        wait_until(lambda: self.is_complete() and self.primary is not old, "the roles are exchanged")

    def end(self) -> None:
        for member in self.members:
            member.kill()
        if self._etcd.is_running:
            self._etcd.kill()


@contextmanager
def own_patroni() -> Iterator[Patroni]:
    """Yields a running cluster; it is killed and removed at the end."""
    with tempfile.TemporaryDirectory(prefix="dispatcher-patroni-") as name:
        Path(name).chmod(0o755)
        cluster = Patroni(Path(name))
        try:
            cluster.start()
            yield cluster
        finally:
            cluster.end()
