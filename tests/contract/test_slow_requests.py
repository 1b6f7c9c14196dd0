"""A slow request costs the partner's database next to nothing. The number of statements per second is tested, not their speed."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import httpx
import pytest
import sqlalchemy as sa
from pydantic import SecretStr
from sqlalchemy import Engine

from dispatcher.credentials.sources import StaticCredentials
from dispatcher.database.notifier import trigger_sql
from dispatcher.database.transactions import Database
from dispatcher.outbox.tables import delivery
from dispatcher.service.scheduler import Scheduler
from dispatcher.service.sleeper import Sleeper
from dispatcher.settings.settings import Settings
from dispatcher.telemetry import Report
from dispatcher.transport.portable import HttpxTransport
from dispatcher.vercel.client import Vercel
from dispatcher.worker.worker import Worker
from tests.contract.steps import DEADLINE_SECONDS, count, write

MAX_STATEMENTS_PER_SECOND = 10
MEASURED_SECONDS = 2.0

Tick = Callable[[], Awaitable[float]]


class Slow:
    """A destination that answers only once its gate is open, and a worker."""

    def __init__(self, database: Database) -> None:
        self.requests = 0
        self.gate = asyncio.Event()
        self.statements = 0
        sa.event.listen(database.engine, "before_cursor_execute", self._count)
        vercel = Vercel("https://vercel.test", HttpxTransport(httpx.MockTransport(self._receive)), DEADLINE_SECONDS)
        settings = Settings(vercel_token=SecretStr("t0ken"), request_timeout=DEADLINE_SECONDS, lease=3_600)
        token = StaticCredentials(SecretStr("t0ken"))
        self.reports: list[Report] = []
        self.worker = Worker(database, vercel, token, settings, self.reports.append, name="one")

    async def _receive(self, _request: httpx.Request) -> httpx.Response:
        self.requests += 1
        await self.gate.wait()
        return httpx.Response(201)

    def _count(self, *_: object) -> None:
        self.statements += 1

    @asynccontextmanager
    async def ticking(self, tick: Tick) -> AsyncIterator[None]:
        """Ticks within the block, as the service does."""
        scheduler = Scheduler(self.reports.append)
        scheduler.every("tick", 0.2, tick)
        scheduler.start()
        try:
            yield
        finally:
            self.gate.set()
            await self.worker.stop(DEADLINE_SECONDS)
            scheduler.stop()
            self.worker.close()

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(DEADLINE_SECONDS):
            while not condition():
                await asyncio.sleep(0.02)

    async def until_it_is_quiet(self) -> None:
        """Waits until there are few statements for a while."""
        rate = float("inf")
        async with asyncio.timeout(DEADLINE_SECONDS):
            while rate > MAX_STATEMENTS_PER_SECOND:
                began, before = time.monotonic(), self.statements
                await asyncio.sleep(MEASURED_SECONDS)
                rate = (self.statements - before) / (time.monotonic() - began)


def commit(partner: Engine, resource: str) -> None:
    with partner.begin() as connection:
        write(connection, resource)


async def becomes_quiet(slow: Slow, tick: Tick, database: Database, partner: Engine) -> None:
    """Waits for quiet during one slow request, and again during two, the second of which is committed meanwhile."""
    async with slow.ticking(tick):
        commit(partner, "db_1")
        await slow.until(lambda: slow.requests == 1)
        await slow.until_it_is_quiet()
        commit(partner, "db_2")
        await slow.until(lambda: slow.requests == 2)
        await slow.until_it_is_quiet()
        slow.gate.set()
        await slow.until(lambda: count(database, delivery) == 0)
    assert slow.requests == 2


@pytest.mark.gate
async def test_during_a_slow_request_only_a_few_statements_a_second_run(database: Database, partner: Engine) -> None:
    slow = Slow(database)
    await becomes_quiet(slow, slow.worker.tick_until_answer, database, partner)


@pytest.mark.gate
@pytest.mark.parametrize("server", ["postgresql"], indirect=True)
async def test_the_same_with_notifications(database: Database, partner: Engine) -> None:
    with database.engine.begin() as connection:
        connection.exec_driver_sql(trigger_sql(database.schema))
    slow = Slow(database)
    sleeper = Sleeper(database, slow.worker.tick_until_answer, slow.worker.sweep, lambda _why: None)
    await becomes_quiet(slow, sleeper.tick, database, partner)
    await sleeper.close()
