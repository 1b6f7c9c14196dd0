"""Real processes: the sandbox and the service as commands, and a partner that writes without the project's code.

On SQLite, except for tests marked `on_every_database`.
"""

import contextlib
import json
import os
import re
import secrets
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from sqlalchemy import Engine

from dispatcher.database.transactions import Database
from tests.contract.databases import IN_PROCESSES
from tests.tables import create_tables, drop_tables

DISPATCHER = Path(sys.executable).with_name("dispatcher")
INSERT = sa.text("INSERT INTO vercel_outbox (installation_id, type, resource_id) VALUES (:i, 'resource.updated', :r)")
BLOCK = {
    "sqlite": "BEGIN IMMEDIATE",
    "postgresql": "LOCK TABLE vercel_outbox",
    "mysql": "LOCK TABLES vercel_outbox WRITE",
}
UNBLOCK = {"sqlite": "ROLLBACK", "postgresql": "ROLLBACK", "mysql": "UNLOCK TABLES"}
BLOCKED = {
    "sqlite": "SELECT 1",  # one writer at a time: nothing can be settled any more
    "postgresql": "SELECT 1 FROM pg_locks WHERE NOT granted AND relation = CAST('vercel_outbox' AS regclass)",
    "mysql": "SELECT 1 FROM information_schema.processlist WHERE db = DATABASE() AND state LIKE 'Waiting for%%'",
}
"""Returns a row once a service waits for the lock."""
HTTP = httpx.Client(trust_env=False, timeout=30, limits=httpx.Limits(max_keepalive_connections=0))
"""Shared, since each client creates a TLS context. It keeps no connection open after an answer."""

on_every_database = pytest.mark.parametrize("server", IN_PROCESSES, indirect=True)


def wait_until(condition: Callable[[], Any], seconds: float = 60.0) -> Any:
    """Returns the condition's value as soon as it is truthy."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(httpx.HTTPError):
            if value := condition():
                return value
        time.sleep(0.02)
    raise AssertionError(f"not within {seconds} s: {condition}")


def free_port() -> int:
    """Returns a port that nothing listens on, outside the system's ephemeral range, so that nothing else takes it meanwhile."""
    while True:
        port = 20_000 + secrets.randbelow(12_000)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


class Running(subprocess.Popen[bytes]):
    """A command that keeps running. Its output goes into files, so that it never waits for a reader."""

    def __init__(self, command: list[str], environment: Mapping[str, str], directory: Path, name: str) -> None:
        self._out, self._log = directory / f"{name}.out", directory / f"{name}.log"
        with self._out.open("wb") as out, self._log.open("wb") as log:
            super().__init__(command, env=environment, cwd=directory, stdout=out, stderr=log)

    @property
    def out(self) -> str:
        """Its stdout so far."""
        return self._out.read_text()

    @property
    def log(self) -> str:
        """Its stderr so far."""
        return self._log.read_text()

    @property
    def lines(self) -> list[dict[str, Any]]:
        """Its complete log lines so far."""
        return [json.loads(line) for line in self.log.splitlines(keepends=True) if line.endswith("\n")]

    def logged(self, event: str) -> dict[str, Any] | None:
        """Its first log line with this event, or None."""
        return next((line for line in self.lines if line["event"] == event), None)

    def freeze(self) -> None:
        """Stops every thread of the process before it returns."""
        self.send_signal(signal.SIGSTOP)
        os.waitpid(self.pid, os.WUNTRACED)

    def thaw(self) -> None:
        """Ends a `freeze`."""
        self.send_signal(signal.SIGCONT)


class Stage:
    """A database, a sandbox, and any number of services. `partner` writes and reads without the project's code."""

    def __init__(self, directory: Path, database: Database, partner: Engine) -> None:
        self.directory = directory
        self.path = directory / "test.db"  # the database's file, on SQLite
        self.database = database
        self.partner = partner
        self.ops_port = 0  # of the service that was started last
        self.processes: list[Running] = []
        self.launcher: tuple[str, ...] = ()  # a prefix of the commands that keep running
        self.environment = {
            "PATH": os.environ["PATH"],
            "COVERAGE_PROCESS_START": os.environ.get("COVERAGE_PROCESS_START", ""),
            "DISPATCHER_DATABASE_URL": database.engine.url.set(drivername=database.dialect.name).render_as_string(
                hide_password=False
            ),
            "DISPATCHER_ALLOW_INSECURE_BASE_URL": "true",
            "DISPATCHER_VERCEL_TOKEN": "t0ken-of-the-test",
            "DISPATCHER_LEASE": "60s",
            "DISPATCHER_REQUEST_TIMEOUT": "20s",
            "DISPATCHER_BACKOFF_BASE": "50ms",
            "DISPATCHER_BACKOFF_CAP": "200ms",
        }
        if database.schema:
            self.environment["DISPATCHER_SCHEMA"] = database.schema
        self.environment |= {name: value for name, value in os.environ.items() if name.startswith("COV")}

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Runs a command until it ends."""
        return subprocess.run(
            [DISPATCHER, *arguments],
            check=False,
            env={"DISPATCHER_OPS_PORT": str(self.ops_port), **self.environment, **environment},
            cwd=self.directory,
            capture_output=True,
            text=True,
            timeout=100,
        )

    def start(self, *arguments: str, **environment: str) -> Running:
        """Starts a command that keeps running; the system chooses its ops port."""
        settings = {"DISPATCHER_OPS_PORT": "0", **self.environment, **environment}
        command = [*self.launcher, str(DISPATCHER), *arguments]
        process = Running(command, settings, self.directory, f"{arguments[0]}-{len(self.processes)}")
        self.processes.append(process)
        return process

    @contextlib.contextmanager
    def playing(self, rate_limit: str = "60/60s") -> Iterator[None]:
        """Within the block the tables exist, and a sandbox answers."""
        try:
            self.start_sandbox(rate_limit, before_it_answers=lambda: create_tables(self.database))
            yield
        finally:
            self.end()
            drop_tables(self.database)

    def start_sandbox(
        self,
        rate_limit: str,
        *options: str,
        port: str = "0",
        before_it_answers: Callable[[], object] = lambda: None,
    ) -> None:
        """Starts a sandbox; services started from now on use it."""
        self.sandbox = sandbox = self.start("sandbox", "--port", port, "--rate-limit", rate_limit, *options)
        before_it_answers()
        wait_until(lambda: sandbox.poll() is not None or sandbox.out.endswith("\n"))
        announced = re.search(r"DISPATCHER_VERCEL_BASE_URL=(\S+)", sandbox.out)
        assert announced, sandbox.log
        self.sandbox_url = self.environment["DISPATCHER_VERCEL_BASE_URL"] = announced[1]

    def start_service(self, **environment: str) -> Running:
        """Starts `dispatcher run`, and waits until it is ready."""
        service = self.start("run", **environment)
        wait_until(lambda: service.poll() is not None or self._is_ready(service))
        assert service.poll() is None, service.log
        return service

    def _is_ready(self, service: Running) -> bool:
        if (started := service.logged("started")) is None:
            return False
        self.ops_port = int(started["ops_port"])
        return bool(self.ask(f"http://127.0.0.1:{self.ops_port}/readyz")["ready"])

    def ask(self, url: str, method: str = "GET", body: object = None) -> Any:
        """Returns the answer of an HTTP server, parsed as JSON. Raises httpx.HTTPError unless it is 2xx."""
        answer = HTTP.request(method, url, json=body)
        answer.raise_for_status()
        return answer.json() if answer.content else None

    def requests(self, status: int | None = 201) -> list[dict[str, Any]]:
        """Returns the requests that the sandbox answered with this status or, if it is None, left unanswered."""
        requests = self.ask(f"{self.sandbox_url}/requests")
        return [one for one in requests if one["status"] == status]

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
        """Returns the number of rows in a table."""
        return int(self.query(f"SELECT count(*) FROM {table}")[0][0])

    def script(self, **fault: object) -> None:
        """Makes the sandbox answer with a fault."""
        self.ask(f"{self.sandbox_url}/faults", "POST", fault)

    def commit(self, *resources: str) -> float:
        """Inserts events as a partner does; returns the time (epoch seconds) before the commit."""
        with self.partner.begin() as connection:
            for resource in resources:
                connection.execute(INSERT, {"i": "icfg_1", "r": resource})
            return time.time()

    def expire_leases(self) -> None:
        """Makes every lease expire now."""
        with self.partner.begin() as connection:
            held = "leased_until IS NOT NULL"
            connection.exec_driver_sql(
                f"UPDATE vercel_installation SET leased_until = '2000-01-01 00:00:00.000000' WHERE {held}"
            )

    def freeze(self, service: Running) -> None:
        """Freezes a service, on SQLite at a moment when it holds no lock: nobody else could write as long as it is frozen."""
        service.freeze()
        while self.partner.dialect.name == "sqlite" and self._is_locked():
            service.thaw()
            service.freeze()

    def _is_locked(self) -> bool:
        with contextlib.closing(sqlite3.connect(self.path, timeout=0, isolation_level=None)) as connection:
            try:
                connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                return True
            return False

    @contextlib.contextmanager
    def blocked(self) -> Iterator[None]:
        """Within the block, no service gets past its next look at the outbox, so none settles anything."""
        with self.partner.connect() as connection:
            connection.exec_driver_sql(BLOCK[self.partner.dialect.name])
            wait_until(lambda: self.query(BLOCKED[self.partner.dialect.name]))
            yield
            connection.exec_driver_sql(UNBLOCK[self.partner.dialect.name])

    def metric(self, line: str) -> bool:
        """Whether the service's metrics contain this line."""
        return line in HTTP.get(f"http://127.0.0.1:{self.ops_port}/metrics").text.splitlines()

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        """Returns the rows of a query."""
        with self.partner.connect() as connection:
            return [tuple(row) for row in connection.exec_driver_sql(sql)]

    def end(self) -> None:
        """Kills the processes that still run."""
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
            process.wait()


@pytest.fixture
def server(request: pytest.FixtureRequest) -> str:
    """The name of the database under test."""
    return str(getattr(request, "param", "sqlite"))


@pytest.fixture
def bare(tmp_path: Path, bare_database: Database, plain_engine: Engine) -> Iterator[Stage]:
    """A stage without tables, on which nothing runs."""
    made = Stage(tmp_path, bare_database, plain_engine)
    yield made
    made.end()


@pytest.fixture
def stage(bare: Stage) -> Iterator[Stage]:
    """A stage with tables, and a sandbox that answers."""
    with bare.playing():
        yield bare
