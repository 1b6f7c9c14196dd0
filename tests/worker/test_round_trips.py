"""How often the database is spoken to: counts, not times, so that they say the same on every machine."""

import asyncio
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
from tests.worker.conftest import Rig

DELIVERIES = 1_000


@dataclass
class Spoken:
    """What was said to a database."""

    statements: int = 0
    transactions: int = 0


@contextmanager
def listening(database: Database) -> Iterator[Spoken]:
    """Counts for the length of the block."""
    spoken = Spoken()

    def begin(_connection: Connection) -> None:
        spoken.transactions += 1

    def execute(_connection: Connection, _cursor: object, statement: str, *_rest: object) -> None:
        spoken.statements += not statement.startswith(("BEGIN", "PRAGMA"))

    listeners: tuple[tuple[str, Callable[..., None]], ...] = (("begin", begin), ("before_cursor_execute", execute))
    for name, listener in listeners:
        event.listen(database.engine, name, listener)
    yield spoken
    for name, listener in listeners:
        event.remove(database.engine, name, listener)


@pytest.fixture
def settings() -> Settings:
    """All requests in flight at once, as many as there are for an installation; and nothing that happens because time has passed."""
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
        mine = range(number, DELIVERIES, installations)
        rig.commit(*(f"db_{one}" for one in mine), installation_id=f"icfg_{number}")


async def deliver_at_once(rig: Rig) -> None:
    """All of them are answered while nothing else happens; then ticks until they are settled."""
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
    with listening(rig.database) as spoken:
        await deliver_at_once(rig)
    assert spoken.statements <= statements
    assert spoken.transactions <= transactions


async def test_no_settlement_is_larger_than_others_can_wait_for(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """On SQLite every writer waits for the whole of it."""
    sizes: list[int] = []
    settle = store.settle

    def counting(database: Database, answers: Sequence[store.Answer], *rest: Any, **options: Any) -> store.Settled:
        sizes.append(len(answers))
        return settle(database, answers, *rest, **options)

    monkeypatch.setattr(store, "settle", counting)
    commit_all(rig)
    await deliver_at_once(rig)
    assert [size for size in sizes if size] == [rig.database.dialect.max_settled] * 4
    assert (rig.rows(delivery), len(rig.requests)) == ([], DELIVERIES)


async def test_an_idle_tick_asks_once(rig: Rig) -> None:
    await rig.settle_all()
    with listening(rig.database) as spoken:
        await rig.worker.tick()
    assert spoken == Spoken(statements=1, transactions=1)


async def test_a_single_delivery_takes_five_transactions(rig: Rig) -> None:
    await rig.settle_all()
    with listening(rig.database) as spoken:
        rig.commit("db_1")
        committed = Spoken(spoken.statements, spoken.transactions)
        await rig.worker.tick()
        while rig.worker.in_flight:
            await asyncio.sleep(0.001)
        await rig.worker.tick()
    assert spoken.transactions - committed.transactions <= 5
    assert spoken.statements - committed.statements <= 24
