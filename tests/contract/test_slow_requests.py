"""A slow request costs the partner's database next to nothing: how many statements a second, not how fast."""

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
from tests.contract.steps import LONGEST, count, write

A_SECOND = 10
"""Statements, at most."""
MEASURED = 2.0

Tick = Callable[[], Awaitable[float]]


class Slow:
    """A destination that answers when it is told to, and a worker."""

    def __init__(self, database: Database) -> None:
        self.requests = 0
        self.gate = asyncio.Event()
        self.statements = 0
        sa.event.listen(database.engine, "before_cursor_execute", self._count)
        vercel = Vercel("https://vercel.test", HttpxTransport(httpx.MockTransport(self._receive)), LONGEST)
        settings = Settings(vercel_token=SecretStr("t0ken"), request_timeout=LONGEST, lease=3_600)
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
        """As the service does it."""
        scheduler = Scheduler(self.reports.append)
        scheduler.every("tick", 0.2, tick)
        scheduler.start()
        try:
            yield
        finally:
            self.gate.set()
            await self.worker.stop(LONGEST)
            scheduler.stop()
            self.worker.close()

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(LONGEST):
            while not condition():
                await asyncio.sleep(0.02)

    async def until_it_is_quiet(self) -> None:
        """Until there are few statements for a while."""
        rate = float("inf")
        async with asyncio.timeout(LONGEST):
            while rate > A_SECOND:
                began, before = time.monotonic(), self.statements
                await asyncio.sleep(MEASURED)
                rate = (self.statements - before) / (time.monotonic() - began)


def commit(partner: Engine, resource: str) -> None:
    with partner.begin() as connection:
        write(connection, resource)


async def see_it_quiet(slow: Slow, tick: Tick, database: Database, partner: Engine) -> None:
    """Beside one slow request, and beside two of which the second was committed then."""
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
async def test_beside_a_slow_request_the_database_is_asked_a_few_times_a_second(
    database: Database, partner: Engine
) -> None:
    slow = Slow(database)
    await see_it_quiet(slow, slow.worker.tick_until_answer, database, partner)


@pytest.mark.gate
@pytest.mark.parametrize("server", ["postgresql"], indirect=True)
async def test_with_a_bell_too(database: Database, partner: Engine) -> None:
    with database.engine.begin() as connection:
        connection.exec_driver_sql(trigger_sql(database.schema))
    slow = Slow(database)
    sleeper = Sleeper(database, slow.worker.tick_until_answer, slow.worker.sweep, lambda _why: None)
    await see_it_quiet(slow, sleeper.tick, database, partner)
    await sleeper.close()
