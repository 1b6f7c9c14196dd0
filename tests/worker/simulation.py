"""Hours in seconds: a real worker on a real database, both by a clock that the test moves, against a destination that it scripts."""

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
from dispatcher.database import schema
from dispatcher.database.engine import open_engine
from dispatcher.database.sqlite import Sqlite
from dispatcher.database.transactions import Database
from dispatcher.settings.settings import Settings
from dispatcher.telemetry import Report
from dispatcher.transport.portable import HttpxTransport
from dispatcher.vercel.client import Vercel
from dispatcher.worker.worker import Worker

Destination = Callable[[float], httpx.Response]
"""What the destination answers so many seconds after the beginning; it may raise what a transport raises."""


BUSY_STEP = 0.01
"""Seconds that a tick with something to do takes, with its pause."""
IDLE_STEP = 5.0
"""Seconds that pass between two ticks with nothing under way: six hours would have too many others."""
SETTINGS = Settings(vercel_token=SecretStr("t0ken"), poll_interval=IDLE_STEP, attempt_retention=0.0)


class _SimulatedSqlite(Sqlite):
    now = "simulated_now()"


class Simulation:
    """`now`: seconds since the beginning. `requests`: when each was sent, and whether it was answered with success. `deadly`: resources
    for which the destination always answers 503.
    """

    def __init__(
        self, directory: Path, destination: Destination, workers: int = 1, settings: Settings = SETTINGS
    ) -> None:
        self.now = 0.0
        self._settings = settings
        self.destination = destination
        self.requests: list[tuple[float, bool]] = []
        self.delivered_at: dict[str, float] = {}
        self.changed_at: dict[str, float] = {}
        self.deadly: set[str] = set()
        self.reports: Counter[type[Report]] = Counter()
        self._epoch = datetime.now(UTC).timestamp()
        engine = open_engine(f"sqlite:///{directory}/simulation.db")
        sa.event.listen(engine, "connect", self._set_clock)
        self.database = Database(engine, _SimulatedSqlite())
        schema.migrate(self.database)
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
        connection.execute("PRAGMA synchronous = OFF")  # nobody pulls the plug here
        connection.create_function("simulated_now", 0, self._tell_time, deterministic=True)

    def _tell_time(self) -> str:
        return datetime.fromtimestamp(self._epoch + self.now, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")

    def _receive(self, request: httpx.Request) -> httpx.Response:
        self.requests.append((self.now, False))
        resource = str(json.loads(request.content)["event"]["resourceId"])
        answer = httpx.Response(503) if resource in self.deadly else self.destination(self.now)
        if answer.is_success:
            self.requests[-1] = (self.now, True)
            self.delivered_at[resource] = self.now
        return answer

    def change(self, subjects: Iterable[int], installations: int) -> None:
        """Commits a change of each of these resources."""
        events = [
            ResourceUpdated(installation_id=f"icfg_{number % installations}", resource_id=f"db_{number}")
            for number in subjects
        ]
        if events:
            with self.database.engine.begin() as connection:
                publish(connection, *events)
        self.changed_at |= {event.resource_id: self.now for event in events}

    async def run_until(self, end: float, each: Callable[[], None] = lambda: None) -> None:
        """Goes on until then; `each` is called before every tick."""
        while self.now < end:
            each()
            pause = min([await self._tick(worker) for worker in self.workers])
            idle = all(worker.idle for worker in self.workers)
            self.now = min(end, self.now + max(pause, IDLE_STEP if idle else BUSY_STEP))

    async def _tick(self, worker: Worker) -> float:
        """Its requests are answered before another has its turn."""
        pause = await worker.tick()
        await asyncio.sleep(0)  # what the tick began begins
        while worker.in_flight:
            await asyncio.sleep(0)
        return pause

    @property
    def undelivered(self) -> list[str]:
        """Resources without a success since their last change."""
        return [one for one, at in self.changed_at.items() if self.delivered_at.get(one, -1.0) < at]

    def started_between(self, begin: float, end: float) -> int:
        """Requests in this span."""
        return sum(begin <= at < end for at, _ in self.requests)

    async def close(self) -> None:
        """Ends the workers and the database."""
        for worker in self.workers:
            await worker.stop(0)
            worker.close()
        self.database.close()
