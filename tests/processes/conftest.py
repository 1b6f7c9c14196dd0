"""Real processes: the sandbox and the service as commands, and partners who write with whatever they have.

On SQLite, unless a test says `on_every_database`.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from sqlalchemy import Engine

from dispatcher import schema
from dispatcher.database import Database
from tests.contract.databases import RARELY_ELSEWHERE

DISPATCHER = Path(sys.executable).with_name("dispatcher")
INSERT = sa.text("INSERT INTO vercel_outbox (installation_id, type, resource_id) VALUES (:i, 'resource.updated', :r)")
BLOCK = {
    "sqlite": "BEGIN IMMEDIATE",
    "postgresql": "LOCK TABLE vercel_outbox",
    "mysql": "LOCK TABLES vercel_outbox WRITE",
}
UNBLOCK = {"sqlite": "ROLLBACK", "postgresql": "ROLLBACK", "mysql": "UNLOCK TABLES"}

on_every_database = pytest.mark.parametrize("server", RARELY_ELSEWHERE, indirect=True)


def wait_until(condition: Callable[[], Any], seconds: float = 20.0) -> Any:
    """What the condition gives as soon as it is true of something."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(httpx.HTTPError):
            if found := condition():
                return found
        time.sleep(0.02)
    raise AssertionError(f"not within {seconds} s: {condition}")


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


class Stage:
    """A database, a sandbox, and any number of services. `partner` writes and reads without any of our code."""

    def __init__(self, directory: Path, database: Database, partner: Engine) -> None:
        self.directory = directory
        self.path = directory / "test.db"  # the database's file, on SQLite
        self.database = database
        self.partner = partner
        self.sandbox_url = f"http://127.0.0.1:{free_port()}"
        self.ops_port = free_port()
        self.processes: list[subprocess.Popen[str]] = []
        self.environment = {
            "PATH": os.environ["PATH"],
            "COVERAGE_PROCESS_START": os.environ.get("COVERAGE_PROCESS_START", ""),
            "DISPATCHER_DATABASE_URL": database.engine.url.set(drivername=database.dialect.name).render_as_string(
                hide_password=False
            ),
            "DISPATCHER_VERCEL_BASE_URL": self.sandbox_url,
            "DISPATCHER_ALLOW_INSECURE_BASE_URL": "true",
            "DISPATCHER_VERCEL_TOKEN": "t0ken-of-the-test",
            "DISPATCHER_OPS_HOST": "127.0.0.1",
            "DISPATCHER_OPS_PORT": str(self.ops_port),
            "DISPATCHER_LEASE": "3s",
            "DISPATCHER_REQUEST_TIMEOUT": "1s",
            "DISPATCHER_BACKOFF_BASE": "50ms",
            "DISPATCHER_BACKOFF_CAP": "200ms",
        }
        if database.schema:
            self.environment["DISPATCHER_SCHEMA"] = database.schema
        self.environment |= {name: value for name, value in os.environ.items() if name.startswith("COV")}

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """A command that ends."""
        return subprocess.run(
            [DISPATCHER, *arguments],
            check=False,
            env=self.environment | environment,
            cwd=self.directory,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        """A command that stays."""
        process = subprocess.Popen(
            [DISPATCHER, *arguments],
            env=self.environment | environment,
            cwd=self.directory,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.processes.append(process)
        return process

    @contextlib.contextmanager
    def playing(self, rate_limit: str = "60/60s") -> Iterator[None]:
        """The tables are there, and a sandbox answers."""
        migrated = self.run("migrate")
        assert migrated.returncode == 0, migrated.stderr
        port = self.sandbox_url.rpartition(":")[2]
        self.start("sandbox", "--port", port, "--rate-limit", rate_limit)
        wait_until(lambda: self.ask(f"{self.sandbox_url}/faults") == [])
        try:
            yield
        finally:
            self.end()
            schema.downgrade(self.database)

    def start_service(self, **environment: str) -> subprocess.Popen[str]:
        """`dispatcher run`, ready."""
        service = self.start("run", **environment)
        wait_until(lambda: service.poll() is not None or self.ask(f"http://127.0.0.1:{self.ops_port}/readyz")["ready"])
        assert service.poll() is None, service.communicate()[1]
        return service

    def ask(self, url: str, method: str = "GET", body: object = None) -> Any:
        """What an HTTP server answers, read as JSON. Raises httpx.HTTPError if it is not 2xx."""
        answer = httpx.request(method, url, json=body, timeout=5)
        answer.raise_for_status()
        return answer.json() if answer.content else None

    def requests(self, status: int | None = 201) -> list[dict[str, Any]]:
        """What the sandbox received and answered with this status."""
        found = self.ask(f"{self.sandbox_url}/requests")
        return [one for one in found if one["status"] == status]

    def received(self, resource: str, since: float) -> bool:
        """Whether a successful request for the resource started after that time."""
        return any(
            one["body"]["event"]["resourceId"] == resource and one["received_at"] >= since for one in self.requests()
        )

    @property
    def leased(self) -> bool:
        """Whether an installation is under a lease."""
        return bool(self.query("SELECT 1 FROM vercel_installation WHERE lease_token IS NOT NULL"))

    def count(self, table: str) -> int:
        """Rows of a table."""
        return int(self.query(f"SELECT count(*) FROM {table}")[0][0])

    def script(self, **fault: object) -> None:
        """A fault for the sandbox."""
        self.ask(f"{self.sandbox_url}/faults", "POST", fault)

    def commit(self, *resources: str) -> float:
        """A partner without any of our code; the time (epoch seconds) before the commit."""
        with self.partner.begin() as connection:
            for resource in resources:
                connection.execute(INSERT, {"i": "icfg_1", "r": resource})
            return time.time()

    def expire_leases(self) -> None:
        """As if their time had passed."""
        with self.partner.begin() as connection:
            held = "leased_until IS NOT NULL"
            connection.exec_driver_sql(
                f"UPDATE vercel_installation SET leased_until = '2000-01-01 00:00:00.000000' WHERE {held}"
            )

    @contextlib.contextmanager
    def blocked(self) -> Iterator[None]:
        """No service gets beyond its next look at the outbox, so that it settles nothing either."""
        with self.partner.connect() as connection:
            connection.exec_driver_sql(BLOCK[self.partner.dialect.name])
            yield
            connection.exec_driver_sql(UNBLOCK[self.partner.dialect.name])

    def metric(self, line: str) -> bool:
        """Whether the service's metrics hold this line."""
        return line in httpx.get(f"http://127.0.0.1:{self.ops_port}/metrics").text.splitlines()

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        """Rows of the database."""
        with self.partner.connect() as connection:
            return [tuple(row) for row in connection.exec_driver_sql(sql)]

    def end(self) -> None:
        """Kills what is left."""
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
            process.communicate()


@pytest.fixture
def server(request: pytest.FixtureRequest) -> str:
    """The name of the database that the test runs on."""
    return str(getattr(request, "param", "sqlite"))


@pytest.fixture
def bare(tmp_path: Path, bare_database: Database, plain_engine: Engine) -> Iterator[Stage]:
    """Nothing is migrated, nothing runs."""
    made = Stage(tmp_path, bare_database, plain_engine)
    yield made
    made.end()


@pytest.fixture
def stage(bare: Stage) -> Iterator[Stage]:
    """Migrated, with a sandbox that answers."""
    with bare.playing():
        yield bare
