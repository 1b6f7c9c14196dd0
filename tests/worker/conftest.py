"""A worker on a SQLite file, with answers that the test chooses."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from pydantic import SecretStr

from dispatcher import ResourceUpdated, publish, store
from dispatcher.credentials.sources import Credentials, StaticCredentials
from dispatcher.database import migration
from dispatcher.database.transactions import Database, open_database
from dispatcher.outbox.tables import installation
from dispatcher.settings.settings import Settings
from dispatcher.telemetry import Answered, Report
from dispatcher.transport.portable import HttpxTransport
from dispatcher.vercel.client import Vercel
from dispatcher.worker.pace import STANDARD, Pace
from dispatcher.worker.worker import Worker

Answer = Callable[[httpx.Request], Any]
DEADLINE_SECONDS = 60.0
"""A busy machine must finish within this time what an idle one does immediately."""


class Rig:
    """A worker, the requests that arrived, and its reports. `answer` may be replaced at any time."""

    def __init__(self, database: Database, settings: Settings, pace: Pace) -> None:
        self.database = database
        self.settings = settings
        self.pace = pace
        self.reports: list[Report] = []
        self.requests: list[httpx.Request] = []
        self.workers: list[Worker] = []
        self.answer: Answer = lambda _request: httpx.Response(201)
        self.now = 0.0
        self.worker = self.another()

    def another(
        self, name: str = "one", clock: Callable[[], float] = time.monotonic, credentials: Credentials | None = None
    ) -> Worker:
        """Returns another worker on the same database, with the token `t0ken` unless other credentials are given."""
        vercel = Vercel(
            "https://vercel.test", HttpxTransport(httpx.MockTransport(self._receive)), self.settings.request_timeout
        )
        hired = Worker(
            self.database,
            vercel,
            credentials or StaticCredentials(SecretStr("t0ken")),
            self.settings,
            self.reports.append,
            name=name,
            pace=self.pace,
            clock=clock,
            random=lambda: 0.999,
        )
        self.workers.append(hired)
        return hired

    @property
    def answered(self) -> int:
        """How many requests have been answered, reported or not."""
        reported = sum(len(report.answers) for report in self.reports if isinstance(report, Answered))
        return reported + sum(len(worker._sender._unreported) for worker in self.workers)

    async def _receive(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        answer = self.answer(request)
        response: httpx.Response = await answer if asyncio.iscoroutine(answer) else answer
        return response

    def commit(self, *resources: str, installation_id: str = "icfg_1") -> None:
        """Commits changes as a partner does."""
        with self.database.engine.begin() as connection:
            publish(connection, *(ResourceUpdated(installation_id=installation_id, resource_id=r) for r in resources))

    async def until(self, condition: Callable[[], bool], worker: Worker | None = None) -> None:
        """Ticks until the condition holds."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            while not condition():
                await (worker or self.worker).tick()
                await asyncio.sleep(0.005)

    async def settle_all(self, worker: Worker | None = None) -> None:
        """Ticks until the worker is idle."""
        ticking = worker or self.worker
        await ticking.tick()
        await self.until(lambda: ticking.idle, ticking)

    def rows(self, table: sa.Table) -> list[sa.Row[Any]]:
        """Returns the table's rows, ordered by primary key."""
        with self.database.read() as connection:
            return list(connection.execute(sa.select(table).order_by(*table.primary_key)))

    def bodies(self) -> list[str]:
        """Returns the resources of the requests, in order of arrival."""
        return [str(httpx.Response(200, content=r.content).json()["event"]["resourceId"]) for r in self.requests]


class Held:
    """Holds the answers back until the test releases them."""

    def __init__(self, rig: Rig, status: int = 201) -> None:
        self._turns = asyncio.Semaphore(0)
        self._status = status
        rig.answer = self._answer

    async def _answer(self, _request: httpx.Request) -> httpx.Response:
        await self._turns.acquire()
        return httpx.Response(self._status)

    def release(self, requests: int = 1) -> None:
        """Answers this many requests."""
        for _ in range(requests):
            self._turns.release()


async def arrived(rig: Rig, requests: int) -> None:
    """Waits until this many requests have arrived."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        while len(rig.requests) < requests:
            await asyncio.sleep(0.001)


async def answered(rig: Rig, requests: int) -> None:
    """Waits until this many requests have been answered."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        while rig.answered < requests:
            await asyncio.sleep(0.001)


def leased(rig: Rig) -> list[str]:
    """Returns the installations that a living worker holds."""
    return [row.installation_id for row in rig.rows(installation) if row.leased_until and row.lease_token != "dead"]


@pytest.fixture
def settings() -> Settings:
    """Short times."""
    return Settings(vercel_token=SecretStr("t0ken"), backoff_base=0.01, backoff_cap=0.05, poll_interval=0.02)


@pytest.fixture
def pace() -> Pace:
    """That of the service."""
    return STANDARD


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = open_database(f"sqlite:///{tmp_path}/test.db")
    migration.migrate(opened)
    yield opened
    opened.close()


@pytest.fixture
async def rig(database: Database, settings: Settings, pace: Pace) -> AsyncIterator[Rig]:
    made = Rig(database, settings, pace)
    yield made
    await made.worker.stop(0)
    made.worker.close()


@pytest.fixture
async def worker(rig: Rig) -> AsyncIterator[Worker]:
    """A worker that uses the rig's clock."""
    hired = rig.another(clock=lambda: rig.now)
    yield hired
    await hired.stop(0)
    hired.close()


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Collects how many deliveries each claim and each pull has read, per installation."""
    sizes: list[int] = []
    claim, pull = store.claim, store.pull

    def claiming(*arguments: Any, **options: Any) -> store.Claimed:
        claimed = claim(*arguments, **options)
        sizes.extend(len(leased.deliveries) for leased in claimed.leased)
        return claimed

    def pulling(*arguments: Any) -> store.Pulled:
        pulled = pull(*arguments)
        sizes.extend(map(len, pulled.deliveries.values()))
        return pulled

    monkeypatch.setattr(store, "claim", claiming)
    monkeypatch.setattr(store, "pull", pulling)
    return sizes
