"""How many statements and transactions the worker needs, and how many objects it holds: counts, not times, which differ by machine."""

import asyncio
import gc
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from pydantic import SecretStr
from sqlalchemy import Connection, event

from dispatcher import store
from dispatcher.database.transactions import Database
from dispatcher.outbox.tables import delivery
from dispatcher.settings.settings import Settings
from tests.worker.conftest import Held, Rig, arrived

DELIVERIES = 1_000


@dataclass
class RoundTrips:
    """Statements and transactions on one database."""

    statements: int = 0
    transactions: int = 0


@contextmanager
def counting_round_trips(database: Database) -> Iterator[RoundTrips]:
    """Counts the round trips of the block."""
    round_trips = RoundTrips()

    def begin(_connection: Connection) -> None:
        round_trips.transactions += 1

    def execute(_connection: Connection, _cursor: object, statement: str, *_rest: object) -> None:
        round_trips.statements += not statement.startswith(("BEGIN", "PRAGMA"))

    listeners: tuple[tuple[str, Callable[..., None]], ...] = (("begin", begin), ("before_cursor_execute", execute))
    for name, listener in listeners:
        event.listen(database.engine, name, listener)
    yield round_trips
    for name, listener in listeners:
        event.remove(database.engine, name, listener)


@pytest.fixture
def settings() -> Settings:
    """All requests may be in flight together, and nothing happens because time has passed."""
    return Settings(
        vercel_token=SecretStr("t0ken"),
        concurrency=DELIVERIES,
        rate_limit=None,
        poll_interval=60,
        request_timeout=600,
        lease=3600,
    )


def commit_all(rig: Rig, installations: int = 1) -> None:
    for number in range(installations):
        numbers = range(number, DELIVERIES, installations)
        rig.commit(*(f"db_{one}" for one in numbers), installation_id=f"icfg_{number}")


async def deliver_together(rig: Rig) -> None:
    """Answers all requests together, then ticks until they are settled."""
    gate = asyncio.Event()

    async def answer(_request: httpx.Request) -> httpx.Response:
        await gate.wait()
        return httpx.Response(201)

    rig.answer = answer
    while len(rig.requests) < DELIVERIES:
        await rig.worker.tick()
        while len(rig.requests) < rig.worker.in_flight:
            await asyncio.sleep(0.001)
    gate.set()
    while rig.worker.in_flight:
        await asyncio.sleep(0.001)
    await rig.settle_all()


@pytest.mark.parametrize(
    ("installations", "statements", "transactions"),
    [(1, 49, 13), (100, 49, 13), (DELIVERIES, 77, 27)],
)
async def test_a_thousand_deliveries_take_a_few_statements(
    rig: Rig, installations: int, statements: int, transactions: int
) -> None:
    commit_all(rig, installations)
    with counting_round_trips(rig.database) as round_trips:
        await deliver_together(rig)
    assert round_trips.statements <= statements
    assert round_trips.transactions <= transactions


async def test_a_settlement_is_limited_in_size(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """On SQLite every other writer waits until it ends."""
    sizes: list[int] = []
    settle = store.settle

    def counting(database: Database, answers: Sequence[store.Answer], *rest: Any, **options: Any) -> store.Settled:
        sizes.append(len(answers))
        return settle(database, answers, *rest, **options)

    monkeypatch.setattr(store, "settle", counting)
    commit_all(rig)
    await deliver_together(rig)
    assert [size for size in sizes if size] == [rig.database.dialect.max_settled] * 4
    assert (rig.rows(delivery), len(rig.requests)) == ([], DELIVERIES)


async def test_an_idle_tick_takes_one_statement(rig: Rig) -> None:
    await rig.settle_all()
    with counting_round_trips(rig.database) as round_trips:
        await rig.worker.tick()
    assert round_trips == RoundTrips(statements=1, transactions=1)


async def test_a_single_delivery_takes_five_transactions(rig: Rig) -> None:
    await rig.settle_all()
    with counting_round_trips(rig.database) as round_trips:
        rig.commit("db_1")
        committed = RoundTrips(round_trips.statements, round_trips.transactions)
        await rig.worker.tick()
        while rig.worker.in_flight:
            await asyncio.sleep(0.001)
        await rig.worker.tick()
    assert round_trips.transactions - committed.transactions <= 5
    assert round_trips.statements - committed.statements <= 24


@pytest.mark.parametrize("settings", [Settings(vercel_token=SecretStr("t0ken"), concurrency=32, rate_limit=None)])
async def test_a_delivery_that_waits_for_its_turn_takes_a_few_objects(rig: Rig) -> None:
    """A worker holds up to 32 of them for each request in flight."""
    held = Held(rig)
    commit_all(rig)
    await rig.worker.tick()
    await arrived(rig, 32)
    (lease,) = rig.worker._leases.held.values()
    queued = len(lease.queue)
    gc.collect()
    before = sys.getallocatedblocks()
    lease.queue.clear()
    assert queued > 500
    assert (before - sys.getallocatedblocks()) / queued < 9
    held.release(DELIVERIES)
    await rig.until(lambda: not rig.worker.in_flight)
