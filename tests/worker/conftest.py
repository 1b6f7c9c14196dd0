"""A worker on a database file, with answers that the test decides."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from pydantic import SecretStr

from dispatcher import ResourceUpdated, publish
from dispatcher.credentials.sources import Credentials, StaticCredentials
from dispatcher.database import schema
from dispatcher.database.transactions import Database, open_database
from dispatcher.settings.settings import Settings
from dispatcher.telemetry import Report
from dispatcher.transport.portable import HttpxTransport
from dispatcher.vercel.client import Vercel
from dispatcher.worker.worker import Worker

Answer = Callable[[httpx.Request], Any]
LONGEST = 60.0
"""Seconds until something that an idle machine does at once must have happened on a busy one."""


class Rig:
    """A worker, what arrived, and what it reported. `answer` may be changed at any time."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self.database = database
        self.settings = settings
        self.reports: list[Report] = []
        self.requests: list[httpx.Request] = []
        self.answer: Answer = lambda _request: httpx.Response(201)
        self.now = 0.0
        self.worker = self.another()

    def another(
        self, name: str = "one", clock: Callable[[], float] = time.monotonic, credentials: Credentials | None = None
    ) -> Worker:
        """Another worker on the same database; its token is `t0ken` unless there are other credentials."""
        vercel = Vercel(
            "https://vercel.test", HttpxTransport(httpx.MockTransport(self._receive)), self.settings.request_timeout
        )
        return Worker(
            self.database,
            vercel,
            credentials or StaticCredentials(SecretStr("t0ken")),
            self.settings,
            self.reports.append,
            name=name,
            clock=clock,
            chance=lambda: 0.999,
        )

    async def _receive(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        answer = self.answer(request)
        response: httpx.Response = await answer if asyncio.iscoroutine(answer) else answer
        return response

    def commit(self, *resources: str, installation_id: str = "icfg_1") -> None:
        """A partner's committed changes."""
        with self.database.engine.begin() as connection:
            publish(connection, *(ResourceUpdated(installation_id=installation_id, resource_id=r) for r in resources))

    async def until(self, condition: Callable[[], bool], worker: Worker | None = None) -> None:
        """Ticks until the condition holds."""
        async with asyncio.timeout(LONGEST):
            while not condition():
                await (worker or self.worker).tick()
                await asyncio.sleep(0.005)

    async def settle_all(self, worker: Worker | None = None) -> None:
        """Ticks until the worker has nothing under way."""
        ticking = worker or self.worker
        await ticking.tick()
        await self.until(lambda: ticking.idle, ticking)

    def rows(self, table: sa.Table) -> list[sa.Row[Any]]:
        """The table's rows, by their first column."""
        with self.database.read() as connection:
            return list(connection.execute(sa.select(table).order_by(*table.primary_key)))

    def bodies(self) -> list[str]:
        """The resources that requests were about, in the order of their arrival."""
        return [str(httpx.Response(200, content=r.content).json()["event"]["resourceId"]) for r in self.requests]


@pytest.fixture
def settings() -> Settings:
    """Short times."""
    return Settings(vercel_token=SecretStr("t0ken"), backoff_base=0.01, backoff_cap=0.05, poll_interval=0.02)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = open_database(f"sqlite:///{tmp_path}/test.db")
    schema.migrate(opened)
    yield opened
    opened.close()


@pytest.fixture
async def rig(database: Database, settings: Settings) -> AsyncIterator[Rig]:
    made = Rig(database, settings)
    yield made
    await made.worker.stop(0)
    made.worker.close()
