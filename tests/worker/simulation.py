"""Simulates hours in seconds: a real worker on a real database, both by a simulated clock, against a scripted destination."""

import asyncio
import json
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path

import httpx
import sqlalchemy as sa
from pydantic import SecretStr

from dispatcher import ResourceUpdated, publish
from dispatcher.credentials.sources import StaticCredentials
from dispatcher.database import migration
from dispatcher.database.engine import open_engine
from dispatcher.database.sqlite import Sqlite
from dispatcher.database.transactions import Database
from dispatcher.settings.settings import Settings
from dispatcher.telemetry import Report
from dispatcher.transport.portable import HttpxTransport
from dispatcher.vercel.client import Vercel
from dispatcher.worker.worker import Worker

Destination = Callable[[float], httpx.Response]
"""Returns the answer to a request, given the seconds since the beginning; may raise the errors of a transport."""

BUSY_STEP_SECONDS = 0.01
"""The time that a tick with something to do takes, including its pause."""
IDLE_STEP_SECONDS = 5.0
"""The time between two idle ticks: shorter steps would be too many in six hours."""
SETTINGS = Settings(vercel_token=SecretStr("t0ken"), poll_interval=IDLE_STEP_SECONDS, attempt_retention=0.0)


class _SimulatedSqlite(Sqlite):
    now = "simulated_now()"


class Simulation:
    """Workers, their database and their destination, by one simulated clock."""

    def __init__(
        self, directory: Path, destination: Destination, workers: int = 1, settings: Settings = SETTINGS
    ) -> None:
        self.now = 0.0
        """Seconds since the beginning."""
        self._settings = settings
        self.destination = destination
        self.requests: list[tuple[float, bool]] = []
        """When each request was sent, and whether it succeeded."""
        self.delivered_at: dict[str, float] = {}
        self.changed_at: dict[str, float] = {}
        self.failing: set[str] = set()
        """Resources for which the destination always answers 503."""
        self.reports: Counter[type[Report]] = Counter()
        self._epoch = datetime.now(UTC).timestamp()
        engine = open_engine(f"sqlite:///{directory}/simulation.db")
        sa.event.listen(engine, "connect", self._set_clock)
        self.database = Database(engine, _SimulatedSqlite())
        migration.migrate(self.database)
        self.workers = [self._hire(f"simulated {number}") for number in range(workers)]

    def _hire(self, name: str) -> Worker:
        return Worker(
            self.database,
            Vercel(
                "https://vercel.test",
                HttpxTransport(httpx.MockTransport(self._receive)),
                self._settings.request_timeout,
            ),
            StaticCredentials(SecretStr("t0ken")),
            self._settings,
            lambda report: self.reports.update([type(report)]),
            name=name,
            clock=lambda: self.now,
            random=lambda: 0.5,
        )

    def _set_clock(self, connection: sqlite3.Connection, _record: object) -> None:
        connection.execute("PRAGMA synchronous = OFF")  # no power failure is simulated
        connection.create_function("simulated_now", 0, self._tell_time, deterministic=True)

    def _tell_time(self) -> str:
        return datetime.fromtimestamp(self._epoch + self.now, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")

    def _receive(self, request: httpx.Request) -> httpx.Response:
        self.requests.append((self.now, False))
        resource = str(json.loads(request.content)["event"]["resourceId"])
        answer = httpx.Response(503) if resource in self.failing else self.destination(self.now)
        if answer.is_success:
            self.requests[-1] = (self.now, True)
            self.delivered_at[resource] = self.now
        return answer

    def change(self, subjects: Iterable[int], installations: int) -> None:
        """Commits a change of each of these subjects."""
        events = [
            ResourceUpdated(installation_id=f"icfg_{number % installations}", resource_id=f"db_{number}")
            for number in subjects
        ]
        if events:
            with self.database.engine.begin() as connection:
                publish(connection, *events)
        self.changed_at |= {event.resource_id: self.now for event in events}

    async def run_until(self, end: float, each: Callable[[], None] = lambda: None) -> None:
        """Runs until the clock reaches `end`; calls `each` before every tick."""
        while self.now < end:
            each()
            pause = min([await self._tick(worker) for worker in self.workers])
            idle = all(worker.idle for worker in self.workers)
            self.now = min(end, self.now + max(pause, IDLE_STEP_SECONDS if idle else BUSY_STEP_SECONDS))

    async def _tick(self, worker: Worker) -> float:
        """Runs a tick, and answers its requests before another worker has its turn."""
        pause = await worker.tick()
        await asyncio.sleep(0)  # its requests begin
        while worker.in_flight:
            await asyncio.sleep(0)
        return pause

    @property
    def undelivered(self) -> list[str]:
        """The resources without a successful request since their last change."""
        return [one for one, at in self.changed_at.items() if self.delivered_at.get(one, -1.0) < at]

    def started_between(self, begin: float, end: float) -> int:
        """Returns the number of requests that started in this span."""
        return sum(begin <= at < end for at, _ in self.requests)

    async def close(self) -> None:
        """Ends the workers and the database."""
        for worker in self.workers:
            await worker.stop(0)
            worker.close()
        self.database.close()
