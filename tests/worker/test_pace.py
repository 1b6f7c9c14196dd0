"""How soon the next tick comes: while a request is slow, hardly ever; when it ends, at once. The clock is the test's."""

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest
from pydantic import SecretStr

from dispatcher.outbox.tables import delivery
from dispatcher.policy.rate_window import RateLimit
from dispatcher.settings.settings import Settings
from dispatcher.worker.worker import BUSY_PAUSE, HOLDING_PAUSE, Worker
from tests.worker.conftest import LONGEST, Rig

LONG = 3_600.0


@pytest.fixture
def settings() -> Settings:
    """No interval that a test would live to see."""
    return Settings(vercel_token=SecretStr("t0ken"), poll_interval=LONG)


@pytest.fixture
async def worker(rig: Rig) -> AsyncIterator[Worker]:
    """Goes by the rig's clock."""
    hired = rig.another(clock=lambda: rig.now)
    yield hired
    await hired.stop(0)
    hired.close()


@pytest.fixture
def gate(rig: Rig) -> asyncio.Event:
    """What every request waits for."""
    opened = asyncio.Event()

    async def answer(_request: httpx.Request) -> httpx.Response:
        await opened.wait()
        return httpx.Response(201)

    rig.answer = answer
    return opened


async def send(rig: Rig, worker: Worker, *resources: str) -> None:
    """Commits these changes; returns when their requests are under way."""
    requests = len(rig.requests) + len(resources)
    rig.commit(*resources)
    await worker.tick()
    async with asyncio.timeout(LONGEST):
        while len(rig.requests) < requests:
            await asyncio.sleep(0.001)


async def longest_pause(rig: Rig, worker: Worker) -> float:
    """What the pause grows to while nothing happens."""
    rig.now += 10
    for _ in range(50):
        pause = await worker.tick()
    return pause


async def test_beside_a_slow_request_the_pause_grows_and_an_answer_ends_it(
    rig: Rig, worker: Worker, gate: asyncio.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    await send(rig, worker, "db_1")
    assert await worker.tick() == BUSY_PAUSE  # something has just happened
    assert await longest_pause(rig, worker) == HOLDING_PAUSE
    monkeypatch.setattr("dispatcher.worker.worker.HOLDING_PAUSE", LONG)
    waiting = asyncio.create_task(worker.tick_until_answer())
    async with asyncio.timeout(LONGEST):
        while not worker._sender.ended._waiters:  # it sleeps
            await asyncio.sleep(0.001)
        gate.set()
        assert await waiting == 0.0
    await worker.tick()
    assert rig.rows(delivery) == []


async def test_a_pause_without_an_answer_comes_to_its_end(rig: Rig, worker: Worker, gate: asyncio.Event) -> None:
    await send(rig, worker, "db_1")
    await longest_pause(rig, worker)
    async with asyncio.timeout(LONGEST):
        assert await worker.tick_until_answer() == 0.0
    assert worker.in_flight == 1
    gate.set()


async def test_with_no_request_under_way_the_clock_has_the_pause(rig: Rig, worker: Worker) -> None:
    assert await longest_pause(rig, worker) > HOLDING_PAUSE
    assert await worker.tick_until_answer() > HOLDING_PAUSE


async def test_a_new_event_of_the_installation_is_read_although_its_lease_was_read_just_now(
    rig: Rig, worker: Worker, gate: asyncio.Event
) -> None:
    await send(rig, worker, "db_1")
    await send(rig, worker, "db_2")  # in one tick, while no time passes
    gate.set()
    await rig.until(lambda: worker.idle, worker)
    assert sorted(rig.bodies()) == ["db_1", "db_2"]


@pytest.mark.parametrize(
    "settings", [Settings(vercel_token=SecretStr("t0ken"), global_rate_limit=RateLimit(1, 0.1), poll_interval=LONG)]
)
async def test_what_waits_for_the_rate_over_all_is_sent_as_soon_as_that_allows(
    rig: Rig, worker: Worker, gate: asyncio.Event
) -> None:
    gate.set()
    rig.commit("db_1", "db_2")
    await worker.tick()
    async with asyncio.timeout(LONGEST):
        while not worker._sender.answers:
            await asyncio.sleep(0.001)
    rig.now += 0.05
    worker._active_until = 0.0
    await worker.tick()
    worker._active_until = 0.0
    pauses = [await worker.tick() for _ in range(50)]
    assert pauses[-1] == pytest.approx(0.05)
    rig.now += 0.06
    await worker.tick()
    await rig.until(lambda: len(rig.requests) == 2, worker)
