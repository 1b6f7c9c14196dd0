"""A slow look-up of a token delays only its own installation, and only until its deadline."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable

import httpx
import pytest
from pydantic import SecretStr
from sqlalchemy import Engine

from dispatcher.credentials.bearer_token import CredentialsUnavailable
from dispatcher.credentials.query import QueryCredentials
from dispatcher.database.transactions import Database, open_database
from dispatcher.settings.settings import Settings
from dispatcher.transport.portable import HttpxTransport
from dispatcher.vercel.client import Vercel
from dispatcher.worker.worker import Worker
from tests.contract.databases import on_servers
from tests.contract.steps import DEADLINE_SECONDS, write

FOREVER_SECONDS = 3_600
"""Longer than any test waits."""
MAX_LOOK_UPS = 8
SHORT_SECONDS = 0.3
ENDLESS = {
    "sqlite": "(WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT count(*) FROM n)",
    "postgresql": f"(SELECT 'x' FROM pg_sleep({FOREVER_SECONDS}))",
    "mysql": f"SLEEP({FOREVER_SECONDS})",
}
SLOW = [f"icfg_slow_{number}" for number in range(70)]
QUICK = [f"icfg_quick_{number}" for number in range(5)]


def open_source(database: Database, deadline: float, max_look_ups: int = MAX_LOOK_UPS) -> QueryCredentials:
    """Opens a source whose look-ups of the `SLOW` installations never end; all others are quick."""
    opened = open_database(database.engine.url.render_as_string(hide_password=False), database.schema)
    endless = ENDLESS[database.dialect.name]
    query = f"SELECT CASE WHEN :installation_id LIKE 'icfg!_slow%' ESCAPE '!' THEN {endless} ELSE 't0ken' END"
    return QueryCredentials(opened, query, FOREVER_SECONDS, deadline=deadline, max_look_ups=max_look_ups)


@pytest.fixture
async def hasty(database: Database) -> AsyncIterator[QueryCredentials]:
    """A source with one thread and a short deadline."""
    credentials = open_source(database, SHORT_SECONDS, max_look_ups=1)
    yield credentials
    await credentials.aclose()


@pytest.mark.varies
async def test_a_look_up_ends_at_its_deadline_and_its_thread_is_free_for_the_next(hasty: QueryCredentials) -> None:
    async with asyncio.timeout(DEADLINE_SECONDS):
        with pytest.raises(CredentialsUnavailable, match=r"gave no answer within 300ms, which is DISPATCHER_REQUEST_"):
            await hasty.token("icfg_slow_0")
        while not hasty.is_at_hand("icfg_quick_0"):  # on a busy machine connecting may take longer than SHORT_SECONDS
            with contextlib.suppress(CredentialsUnavailable):
                await hasty.token("icfg_quick_0")


@pytest.mark.parametrize("server", ["sqlite"], indirect=True)
async def test_a_look_up_that_finds_no_thread_ends_at_its_deadline_too(hasty: QueryCredentials) -> None:
    free = threading.Event()
    hasty._executor.submit(free.wait)
    try:
        async with asyncio.timeout(DEADLINE_SECONDS):
            with pytest.raises(CredentialsUnavailable, match="gave no answer within"):
                await hasty.token("icfg_quick_0")
    finally:
        free.set()


@on_servers
async def test_no_thread_is_left_waiting_once_the_source_is_closed(database: Database) -> None:
    credentials = open_source(database, FOREVER_SECONDS)
    waiting = asyncio.create_task(credentials.token("icfg_slow_0"))
    while not credentials._threads:
        await asyncio.sleep(0.001)
    await credentials.aclose()
    with pytest.raises(CredentialsUnavailable):
        await waiting
    assert credentials._threads == {}


@pytest.mark.varies
@on_servers
async def test_while_look_ups_hang_all_others_are_delivered(database: Database, partner: Engine) -> None:
    """Even if more look-ups hang than requests may be in flight."""
    requested: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        requested.append(next(one for one in [*SLOW, *QUICK] if f"/{one}/" in str(request.url)))
        return httpx.Response(201)

    settings = Settings(vercel_token=SecretStr("t0ken"), request_timeout=FOREVER_SECONDS, lease=2 * FOREVER_SECONDS)
    assert len(SLOW) > settings.concurrency
    credentials = open_source(database, FOREVER_SECONDS)
    for one in QUICK:
        await credentials.token(one)
    vercel = Vercel("https://vercel.test", HttpxTransport(httpx.MockTransport(answer)), FOREVER_SECONDS)
    worker = Worker(database, vercel, credentials, settings, lambda _report: None, name="one")
    with partner.begin() as connection:
        for one in SLOW:
            write(connection, "db_1", installation_id=one)
    await until(lambda: len(credentials._threads) == MAX_LOOK_UPS, worker)
    with partner.begin() as connection:
        for one in QUICK:
            write(connection, "db_1", "db_2", installation_id=one)
    await until(lambda: len(requested) == 2 * len(QUICK), worker)
    assert sorted(requested) == sorted(QUICK * 2)
    assert len(credentials._threads) == MAX_LOOK_UPS
    await worker.stop(0)
    await credentials.aclose()
    worker.close()


async def until(condition: Callable[[], object], worker: Worker) -> None:
    """Ticks until the condition holds."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not condition():
            await worker.tick()
            await asyncio.sleep(0.005)
