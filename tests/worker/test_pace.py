"""How soon the next tick comes: while a request is slow, hardly ever; when it ends, at once. The clock is the test's."""

import asyncio
import math
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from dispatcher import ResourceUpdated, publish, store
from dispatcher.database.transactions import Database
from dispatcher.outbox.tables import delivery, outbox
from dispatcher.policy.rate_window import RateLimit
from dispatcher.settings.settings import Settings
from dispatcher.telemetry import Attempted
from dispatcher.worker.worker import BUSY_PAUSE_SECONDS, MAX_HOLDING_PAUSE_SECONDS, Worker
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
    assert await worker.tick() == BUSY_PAUSE_SECONDS  # something has just happened
    assert await longest_pause(rig, worker) == MAX_HOLDING_PAUSE_SECONDS
    monkeypatch.setattr("dispatcher.worker.worker.MAX_HOLDING_PAUSE_SECONDS", LONG)
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
    assert await longest_pause(rig, worker) > MAX_HOLDING_PAUSE_SECONDS
    assert await worker.tick_until_answer() > MAX_HOLDING_PAUSE_SECONDS


async def test_a_new_event_of_the_installation_is_read_although_its_lease_was_read_just_now(
    rig: Rig, worker: Worker, gate: asyncio.Event
) -> None:
    await send(rig, worker, "db_1")
    await send(rig, worker, "db_2")  # in one tick, while no time passes
    gate.set()
    await rig.until(lambda: worker.idle, worker)
    assert sorted(rig.bodies()) == ["db_1", "db_2"]


def forget_activity(worker: Worker) -> None:
    """As if nothing had been collected or settled for a while."""
    worker._collection.found_at = worker._settled_at = -math.inf


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
        while not worker._answers:
            await asyncio.sleep(0.001)
    rig.now += 0.05
    forget_activity(worker)
    await worker.tick()
    forget_activity(worker)
    pauses = [await worker.tick() for _ in range(50)]
    assert pauses[-1] == pytest.approx(0.05)
    rig.now += 0.06
    await worker.tick()
    await rig.until(lambda: len(rig.requests) == 2, worker)


async def test_after_an_answer_the_next_pause_is_ended_by_the_next_answer_only(
    rig: Rig, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dispatcher.worker.worker.MAX_HOLDING_PAUSE_SECONDS", LONG)
    turns = asyncio.Semaphore(0)

    async def answer(_request: httpx.Request) -> httpx.Response:
        await turns.acquire()
        return httpx.Response(201)

    rig.answer = answer
    await send(rig, worker, "db_1", "db_2")
    turns.release()
    await rig.until(lambda: len(rig.rows(delivery)) == 1, worker)
    await longest_pause(rig, worker)
    waiting = asyncio.create_task(worker.tick_until_answer())
    assert not (await asyncio.wait([waiting], timeout=0.1))[0]
    turns.release()
    async with asyncio.timeout(LONGEST):
        assert await waiting == 0.0


async def test_ticks_are_quick_again_once_an_answer_was_settled(rig: Rig, worker: Worker, gate: asyncio.Event) -> None:
    """It may have made something else due."""
    await send(rig, worker, "db_1")
    await longest_pause(rig, worker)
    gate.set()
    await answered(rig, 1)
    assert await worker.tick() == BUSY_PAUSE_SECONDS
    assert rig.rows(delivery) == []
    assert await worker.tick() == BUSY_PAUSE_SECONDS


async def answered(rig: Rig, requests: int) -> None:
    """Until so many answers have come, none of which is settled yet."""
    async with asyncio.timeout(LONGEST):
        while sum(isinstance(report, Attempted) for report in rig.reports) < requests:
            await asyncio.sleep(0.001)


@pytest.mark.parametrize(
    "settings", [Settings(vercel_token=SecretStr("t0ken"), poll_interval=LONG, concurrency=1, rate_limit=None)]
)
async def test_ticks_are_quick_while_answers_wait_to_be_settled(
    rig: Rig, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dispatcher.worker.settlement.MAX_WAIT_SECONDS", 10 * LONG)
    gate = asyncio.Event()

    async def answer(_request: httpx.Request) -> httpx.Response:
        if len(rig.requests) > 1:
            await gate.wait()
        return httpx.Response(201)

    rig.answer = answer
    rig.commit("db_1", "db_2", "db_3")
    await worker.tick()
    await answered(rig, 1)
    assert await longest_pause(rig, worker) == BUSY_PAUSE_SECONDS
    assert len(rig.rows(delivery)) == 3
    gate.set()
    await rig.until(lambda: worker.idle, worker)


async def test_the_time_that_a_tick_takes_is_taken_off_its_pause(
    rig: Rig, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    look, took = store.look, 0.0

    def slowly(database: Database, *floors: Any) -> store.Work:
        rig.now += took
        return look(database, *floors)

    monkeypatch.setattr(store, "look", slowly)
    rig.now = 100.0
    for _ in range(50):
        pause = await worker.tick()
    assert pause == LONG
    took = 1_000.0
    assert await worker.tick() == pytest.approx(LONG - 1_000.0)
    took = 2 * LONG
    assert await worker.tick() == 0.0


async def test_what_one_claim_leaves_is_max_claimed(rig: Rig, worker: Worker) -> None:
    await longest_pause(rig, worker)
    most = rig.database.dialect.max_claimed
    events = [ResourceUpdated(installation_id=f"icfg_{number}", resource_id="db_1") for number in range(most + 1)]
    with rig.database.engine.begin() as connection:
        publish(connection, *events)
    store.collect(rig.database, len(events))  # another worker's
    assert await worker.tick() == BUSY_PAUSE_SECONDS
    await rig.until(lambda: len(rig.requests) == len(events), worker)


@pytest.mark.parametrize(
    "found", [store.Collected(), store.Collected(skipped=True)], ids=["nothing that can be moved", "another collects"]
)
async def test_a_collection_that_moves_nothing_is_no_reason_to_hurry(
    rig: Rig, worker: Worker, monkeypatch: pytest.MonkeyPatch, found: store.Collected
) -> None:
    monkeypatch.setattr(store, "look", lambda *_: store.Work(to_collect=True, to_claim=False))
    monkeypatch.setattr(store, "collect", lambda *_: found)
    assert await longest_pause(rig, worker) > MAX_HOLDING_PAUSE_SECONDS


@pytest.mark.parametrize(
    "settings", [Settings(vercel_token=SecretStr("t0ken"), global_rate_limit=RateLimit(1, LONG), poll_interval=LONG)]
)
async def test_a_burst_that_is_not_collected_yet_is_a_reason_to_hurry_however_slow_its_collection_is(
    rig: Rig, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing can be claimed meanwhile: the rate over all installations is used up."""
    rig.commit("db_0")
    await rig.settle_all(worker)
    await longest_pause(rig, worker)
    collect = store.collect

    def slowly(*arguments: Any) -> store.Collected:
        rig.now += 60.0
        return collect(*arguments)

    monkeypatch.setattr(store, "collect", slowly)
    monkeypatch.setattr("dispatcher.worker.collection.BURST_SAMPLE_EVENTS", 1)
    rig.commit(*(f"db_{number}" for number in range(rig.database.dialect.max_collected + 1)))
    assert await worker.tick() == 0.0  # it took longer than any pause
    assert len(rig.rows(outbox)) == 1
    monkeypatch.undo()
    assert await worker.tick() == BUSY_PAUSE_SECONDS
    assert rig.rows(outbox) == []


async def test_while_it_stops_it_waits_for_slow_requests_without_hurry(
    rig: Rig, worker: Worker, gate: asyncio.Event
) -> None:
    await send(rig, worker, "db_1")
    stopping = asyncio.create_task(worker.stop(LONGEST))
    await asyncio.sleep(0)  # it begins
    assert await longest_pause(rig, worker) == MAX_HOLDING_PAUSE_SECONDS
    gate.set()
    await stopping
    assert rig.rows(delivery) == []
