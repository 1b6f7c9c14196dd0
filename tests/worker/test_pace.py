"""The pauses between ticks: long during a slow request, ended by its answer. The clock is the test's."""

import asyncio
import math
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from dispatcher import ResourceUpdated, publish, store
from dispatcher.database.transactions import Database
from dispatcher.outbox.tables import delivery, outbox
from dispatcher.policy.rate_window import RateLimit
from dispatcher.settings.settings import Settings
from dispatcher.worker.pace import Pace
from dispatcher.worker.worker import BUSY_PAUSE_SECONDS, SATURATED_PAUSE_SECONDS, Worker
from tests.worker.conftest import DEADLINE_SECONDS, Held, Rig, answered, arrived

LONG_SECONDS = 3_600.0
LONG_HOLDING_PAUSE = Pace(max_holding_pause_seconds=LONG_SECONDS)


@pytest.fixture
def settings() -> Settings:
    """A polling interval longer than any test."""
    return Settings(vercel_token=SecretStr("t0ken"), poll_interval=LONG_SECONDS)


@pytest.fixture
def gate(rig: Rig) -> asyncio.Event:
    """An event that every request waits for."""
    opened = asyncio.Event()

    async def answer(_request: httpx.Request) -> httpx.Response:
        await opened.wait()
        return httpx.Response(201)

    rig.answer = answer
    return opened


async def send(rig: Rig, worker: Worker, *resources: str) -> None:
    """Commits these changes, and waits until their requests are in flight."""
    requests = len(rig.requests) + len(resources)
    rig.commit(*resources)
    await worker.tick()
    async with asyncio.timeout(DEADLINE_SECONDS):
        while len(rig.requests) < requests:
            await asyncio.sleep(0.001)


async def longest_pause(rig: Rig, worker: Worker) -> float:
    """Returns the pause after many ticks in which nothing happens."""
    rig.now += 10
    for _ in range(50):
        pause = await worker.tick()
    return pause


async def test_during_a_slow_request_the_pause_grows(rig: Rig, worker: Worker, gate: asyncio.Event) -> None:
    await send(rig, worker, "db_1")
    assert await worker.tick() == BUSY_PAUSE_SECONDS  # something has just happened
    assert await longest_pause(rig, worker) == rig.pace.max_holding_pause_seconds
    gate.set()


@pytest.mark.parametrize("pace", [LONG_HOLDING_PAUSE])
async def test_an_answer_ends_a_long_pause(rig: Rig, worker: Worker, gate: asyncio.Event) -> None:
    await send(rig, worker, "db_1")
    await longest_pause(rig, worker)
    waiting = asyncio.create_task(worker.tick_until_answer())
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not worker._sender.ended._waiters:  # it waits
            await asyncio.sleep(0.001)
        gate.set()
        assert await waiting == 0.0
    await worker.tick()
    assert rig.rows(delivery) == []


async def test_a_pause_without_an_answer_lasts_to_its_end(rig: Rig, worker: Worker, gate: asyncio.Event) -> None:
    await send(rig, worker, "db_1")
    await longest_pause(rig, worker)
    async with asyncio.timeout(DEADLINE_SECONDS):
        assert await worker.tick_until_answer() == 0.0
    assert worker.in_flight == 1
    gate.set()


async def test_without_a_request_in_flight_the_pause_is_left_to_the_caller(rig: Rig, worker: Worker) -> None:
    assert await longest_pause(rig, worker) > rig.pace.max_holding_pause_seconds
    assert await worker.tick_until_answer() > rig.pace.max_holding_pause_seconds


async def test_a_new_event_of_an_installation_is_read_although_its_deliveries_were_read_just_now(
    rig: Rig, worker: Worker, gate: asyncio.Event
) -> None:
    await send(rig, worker, "db_1")
    await send(rig, worker, "db_2")  # in one tick, while no time passes
    gate.set()
    await rig.until(lambda: worker.idle, worker)
    assert sorted(rig.bodies()) == ["db_1", "db_2"]


def forget_activity(worker: Worker) -> None:
    """Makes the worker believe that nothing has been collected or settled for a while."""
    worker._collection.found_at = worker._settled_at = -math.inf


@pytest.mark.parametrize(
    "settings",
    [Settings(vercel_token=SecretStr("t0ken"), global_rate_limit=RateLimit(1, 0.1), poll_interval=LONG_SECONDS)],
)
async def test_a_delivery_that_waits_for_the_global_rate_limit_is_sent_as_soon_as_it_may_be(
    rig: Rig, worker: Worker, gate: asyncio.Event
) -> None:
    gate.set()
    rig.commit("db_1", "db_2")
    await worker.tick()
    async with asyncio.timeout(DEADLINE_SECONDS):
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


@pytest.mark.parametrize("pace", [LONG_HOLDING_PAUSE])
async def test_after_an_answer_only_the_next_answer_ends_the_next_pause(rig: Rig, worker: Worker) -> None:
    held = Held(rig)
    await send(rig, worker, "db_1", "db_2")
    held.release()
    await rig.until(lambda: len(rig.rows(delivery)) == 1, worker)
    await longest_pause(rig, worker)
    waiting = asyncio.create_task(worker.tick_until_answer())
    assert not (await asyncio.wait([waiting], timeout=0.1))[0]
    held.release()
    async with asyncio.timeout(DEADLINE_SECONDS):
        assert await waiting == 0.0


async def test_ticks_are_quick_again_once_an_answer_was_settled(rig: Rig, worker: Worker, gate: asyncio.Event) -> None:
    """The answer may have made something else due."""
    await send(rig, worker, "db_1")
    await longest_pause(rig, worker)
    gate.set()
    await answered(rig, 1)
    assert await worker.tick() == BUSY_PAUSE_SECONDS
    assert rig.rows(delivery) == []
    assert await worker.tick() == BUSY_PAUSE_SECONDS


@pytest.mark.parametrize(
    "settings", [Settings(vercel_token=SecretStr("t0ken"), poll_interval=LONG_SECONDS, concurrency=1, rate_limit=None)]
)
@pytest.mark.parametrize("pace", [Pace(answer_wait_seconds=10 * LONG_SECONDS)])
async def test_ticks_are_quick_while_answers_wait_to_be_settled(rig: Rig, worker: Worker) -> None:
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


async def test_the_time_that_a_tick_takes_is_deducted_from_its_pause(
    rig: Rig, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    look, took = store.look, 0.0

    def slowly(database: Database, *marks: Any) -> store.Work:
        rig.now += took
        return look(database, *marks)

    monkeypatch.setattr(store, "look", slowly)
    rig.now = 100.0
    for _ in range(50):
        pause = await worker.tick()
    assert pause == LONG_SECONDS
    took = 1_000.0
    assert await worker.tick() == pytest.approx(LONG_SECONDS - 1_000.0)
    took = 2 * LONG_SECONDS
    assert await worker.tick() == 0.0


async def test_installations_that_one_claim_leaves_are_claimed_without_a_pause(rig: Rig, worker: Worker) -> None:
    await longest_pause(rig, worker)
    limit = rig.database.dialect.max_claimed
    events = [ResourceUpdated(installation_id=f"icfg_{number}", resource_id="db_1") for number in range(limit + 1)]
    with rig.database.engine.begin() as connection:
        publish(connection, *events)
    store.collect(rig.database, len(events))  # as another worker would
    assert await worker.tick() == BUSY_PAUSE_SECONDS
    await rig.until(lambda: len(rig.requests) == len(events), worker)


@pytest.mark.parametrize(
    "collected", [store.Collected(), store.Collected(skipped=True)], ids=["nothing to move", "another collects"]
)
async def test_a_collection_that_moves_nothing_does_not_shorten_the_pause(
    rig: Rig, worker: Worker, monkeypatch: pytest.MonkeyPatch, collected: store.Collected
) -> None:
    monkeypatch.setattr(store, "look", lambda *_: store.Work(to_collect=True, to_claim=False))
    monkeypatch.setattr(store, "collect", lambda *_: collected)
    assert await longest_pause(rig, worker) > rig.pace.max_holding_pause_seconds


@pytest.mark.parametrize(
    "settings",
    [
        Settings(
            vercel_token=SecretStr("t0ken"), global_rate_limit=RateLimit(1, LONG_SECONDS), poll_interval=LONG_SECONDS
        )
    ],
)
@pytest.mark.parametrize("pace", [Pace(burst_sample_events=1)])
async def test_the_rest_of_a_burst_is_collected_without_a_pause_even_if_that_is_slow(
    rig: Rig, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing can be claimed meanwhile: the global rate limit is used up."""
    rig.commit("db_0")
    await rig.settle_all(worker)
    await longest_pause(rig, worker)
    collect = store.collect

    def slowly(*arguments: Any) -> store.Collected:
        rig.now += 60.0
        return collect(*arguments)

    monkeypatch.setattr(store, "collect", slowly)
    rig.commit(*(f"db_{number}" for number in range(rig.database.dialect.max_collected + 1)))
    assert await worker.tick() == 0.0  # it took longer than any pause
    assert len(rig.rows(outbox)) == 1
    monkeypatch.undo()
    assert await worker.tick() == BUSY_PAUSE_SECONDS
    assert rig.rows(outbox) == []


async def test_while_it_stops_pauses_grow_too_during_slow_requests(
    rig: Rig, worker: Worker, gate: asyncio.Event
) -> None:
    await send(rig, worker, "db_1")
    stopping = asyncio.create_task(worker.stop(DEADLINE_SECONDS))
    await asyncio.sleep(0)  # it begins
    assert await longest_pause(rig, worker) == rig.pace.max_holding_pause_seconds
    gate.set()
    await stopping
    assert rig.rows(delivery) == []


@pytest.mark.parametrize(
    "settings", [Settings(vercel_token=SecretStr("t0ken"), poll_interval=LONG_SECONDS, concurrency=1, rate_limit=None)]
)
async def test_while_a_saturated_sender_has_plenty_queued_ticks_are_rarer_and_answers_do_not_hasten_them(
    rig: Rig, worker: Worker
) -> None:
    held = Held(rig)
    rig.commit(*(f"db_{number}" for number in range(140)))  # more than a quarter of the buffer
    await worker.tick()
    await arrived(rig, 1)
    assert await worker.tick_until_answer() == SATURATED_PAUSE_SECONDS
    held.release(20)
    await answered(rig, 20)
    assert await worker.tick_until_answer() == BUSY_PAUSE_SECONDS
    held.release(140)
    await rig.until(lambda: worker.idle, worker)
    assert len(rig.requests) == 140
