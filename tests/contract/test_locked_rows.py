"""Another session, such as a support session, keeps one installation's row locked: only that installation waits."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager

import httpx
import pytest
import sqlalchemy as sa
from pydantic import SecretStr
from sqlalchemy import Engine

from dispatcher import store
from dispatcher.credentials.sources import StaticCredentials
from dispatcher.database.transactions import Database, open_database
from dispatcher.outbox.tables import delivery, installation, outbox
from dispatcher.policy.outcome import Outcome, OutcomeKind
from dispatcher.settings.settings import Settings
from dispatcher.telemetry import LeaseLost, Report
from dispatcher.transport.portable import HttpxTransport
from dispatcher.vercel.client import Vercel
from dispatcher.worker.worker import Worker
from tests.contract.row_locks import locked_by_another, with_row_locks
from tests.contract.steps import DEADLINE_SECONDS, DELIVERED, LEASE, claim, collect, count, settle, write

pytestmark = pytest.mark.varies

LOCKED = "icfg_locked"
OTHERS = [f"icfg_{number}" for number in range(20)]


@pytest.fixture
def impatient(database: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    """A database that waits for a lock for only one second. On SQLite, row locks are simulated; the steps behave the same."""
    if database.dialect.name == "sqlite":
        yield with_row_locks(database)
        return
    monkeypatch.setattr(type(database.dialect), "lock_seconds", 1)
    opened = open_database(database.engine.url.render_as_string(hide_password=False), database.schema)
    yield opened
    opened.close()


@contextmanager
def locked(partner: Engine, impatient: Database) -> Iterator[None]:
    """Another session has the row locked during the block."""
    if impatient.dialect.name == "sqlite":
        with locked_by_another(impatient, installation.c.installation_id, LOCKED):
            yield
        return
    statement = f"SELECT 1 FROM vercel_installation WHERE installation_id = '{LOCKED}' FOR UPDATE"
    with partner.begin() as session:
        assert session.exec_driver_sql(statement).scalar() == 1
        yield


def ids(database: Database, table: sa.Table) -> list[str]:
    """Returns the installation ids of the table's rows."""
    with database.read() as connection:
        return sorted(connection.execute(sa.select(table.c.installation_id)).scalars())


def known(database: Database, partner: Engine, *installation_ids: str) -> None:
    """Makes these installations known, with nothing to do."""
    for installation_id in installation_ids:
        collect(database, partner, "db_0", installation_id=installation_id)
    settle(database, *claim(database, len(installation_ids)))


# the steps ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_collection_leaves_the_events_of_the_locked_installation(
    impatient: Database, database: Database, partner: Engine
) -> None:
    known(database, partner, LOCKED, "icfg_1")
    with partner.begin() as connection:
        for installation_id in (LOCKED, "icfg_1", "icfg_new", LOCKED):
            write(connection, "db_1", installation_id=installation_id)
    with locked(partner, impatient):
        for installation_ids, left in ((frozenset({"icfg_1", "icfg_new"}), 2), (frozenset(), 2)):
            collected = store.collect(impatient, 500)
            assert (collected.installation_ids, collected.left, collected.full) == (installation_ids, left, False)
        assert ids(database, outbox) == [LOCKED, LOCKED]
        assert ids(database, delivery) == ["icfg_1", "icfg_new"]
    assert (store.collect(impatient, 500).events, count(database, outbox)) == (2, 0)
    assert {one.installation_id for one in claim(database)} == {LOCKED, "icfg_1", "icfg_new"}


def test_a_collection_reports_how_far_it_has_read_including_the_events_that_it_left(
    impatient: Database, database: Database, partner: Engine
) -> None:
    known(database, partner, LOCKED)
    with partner.begin() as connection:
        write(connection, "db_1", "db_2", installation_id=LOCKED)
        write(connection, "db_1", installation_id="icfg_1")
    with locked(partner, impatient):
        first = store.collect(impatient, 2)
        assert (first.events, first.left, first.full) == (0, 2, True)
        assert store.collect(impatient, 2, first.last_event_id).installation_ids == {"icfg_1"}


def test_settle_and_pull_distinguish_a_locked_installation_from_a_lost_one(
    impatient: Database, database: Database, partner: Engine
) -> None:
    for installation_id in (LOCKED, "icfg_1", "icfg_lost"):
        collect(database, partner, "db_1", installation_id=installation_id)
    tokens = {one.installation_id: one.token for one in claim(database)} | {"icfg_lost": "another"}
    with database.read() as connection:
        now = connection.execute(sa.select(impatient.dialect.clock())).scalar_one()
        rows = connection.execute(sa.select(*(delivery.c[name] for name in store.READ)))
        deliveries = [store.Delivery.of(row, now) for row in rows]
    answers = [
        store.Answer(one, tokens[one.subject.installation_id], Outcome(OutcomeKind.DELIVERED), DELIVERED)
        for one in deliveries
    ]
    states = [store.InstallationState(id_, token, release=True) for id_, token in sorted(tokens.items())]
    with locked(partner, impatient):
        pulled = store.pull(impatient, tokens, 9, LEASE)
        assert (list(pulled.deliveries), set(pulled.locked)) == (["icfg_1"], {LOCKED})
        settled = store.settle(impatient, answers, states, LEASE)
        assert (set(settled.lost), set(settled.locked)) == ({"icfg_lost"}, {LOCKED})
        assert ids(database, delivery) == [LOCKED, "icfg_lost"]
        only = [state for state in states if state.installation_id == LOCKED]
        assert store.settle(impatient, [], only, LEASE) == store.Settled(locked=frozenset({LOCKED}))
        assert store.pull(impatient, {LOCKED: tokens[LOCKED]}, 9, LEASE) == store.Pulled({}, frozenset({LOCKED}))
    assert store.settle(impatient, answers, states, LEASE).locked == frozenset()
    assert ids(database, delivery) == ["icfg_lost"]


# a worker ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


class Rig:
    """A worker, and a destination that answers the requests of `LOCKED` only while the gate is open."""

    def __init__(self, database: Database) -> None:
        self.reports: list[Report] = []
        self.requested: list[str] = []
        self.gate = asyncio.Event()
        self.gate.set()
        settings = Settings(vercel_token=SecretStr("t0ken"), poll_interval=0.02)
        vercel = Vercel("https://vercel.test", HttpxTransport(httpx.MockTransport(self._receive)), DEADLINE_SECONDS)
        token = StaticCredentials(SecretStr("t0ken"))
        self.worker = Worker(database, vercel, token, settings, self.reports.append, name="one")

    async def _receive(self, request: httpx.Request) -> httpx.Response:
        installation_id = next(one for one in [LOCKED, *OTHERS] if f"/{one}/" in str(request.url))
        self.requested.append(installation_id)
        if installation_id == LOCKED:
            await self.gate.wait()
        return httpx.Response(201, content=json.dumps({}))

    async def until(self, condition: Callable[[], object]) -> int:
        """Ticks until the condition holds; returns the number of ticks."""
        ticks = 0
        async with asyncio.timeout(DEADLINE_SECONDS):
            while not condition():
                await self.worker.tick()
                await asyncio.sleep(0.005)
                ticks += 1
        return ticks


@pytest.fixture
async def rig(impatient: Database) -> AsyncIterator[Rig]:
    made = Rig(impatient)
    yield made
    await made.worker.stop(0)
    made.worker.close()


def commit(partner: Engine, *installation_ids: str) -> None:
    with partner.begin() as connection:
        for installation_id in installation_ids:
            write(connection, "db_1", installation_id=installation_id)


async def test_the_events_of_all_other_installations_are_delivered_meanwhile(
    rig: Rig, impatient: Database, database: Database, partner: Engine
) -> None:
    known(database, partner, LOCKED, *OTHERS[:10])
    with locked(partner, impatient):
        commit(partner, LOCKED, *OTHERS)
        await rig.until(lambda: len(rig.requested) == 20)
        await rig.until(lambda: count(database, delivery) == 0)
        assert sorted(rig.requested) == sorted(OTHERS)
        assert ids(database, outbox) == [LOCKED]
    await rig.until(lambda: rig.requested[20:] == [LOCKED])
    await rig.until(lambda: rig.worker.idle)
    assert [count(database, table) for table in (outbox, delivery)] == [0, 0]


async def test_an_answer_that_comes_meanwhile_is_settled_afterwards_and_answers_of_others_at_once(
    rig: Rig, impatient: Database, database: Database, partner: Engine
) -> None:
    rig.gate.clear()
    commit(partner, LOCKED)
    await rig.until(lambda: rig.requested)
    with locked(partner, impatient):
        rig.gate.set()
        await rig.until(lambda: not rig.worker.in_flight)
        commit(partner, *OTHERS)
        await rig.until(lambda: len(rig.requested) == 21)
        await rig.until(lambda: ids(database, delivery) == [LOCKED])
        assert not rig.worker.idle
    await rig.until(lambda: rig.worker.idle)
    assert rig.requested.count(LOCKED) == 1
    assert count(database, delivery) == 0
    assert [report for report in rig.reports if isinstance(report, LeaseLost)] == []
    with database.read() as connection:
        assert set(connection.execute(sa.select(installation.c.lease_token)).scalars()) == {None}


async def test_a_lease_that_should_be_renewed_meanwhile_is_renewed_afterwards(
    rig: Rig, impatient: Database, database: Database, partner: Engine
) -> None:
    rig.gate.clear()
    commit(partner, LOCKED)
    await rig.until(lambda: rig.requested)
    with locked(partner, impatient):
        (lease,) = rig.worker._leases.held.values()
        lease.until = short = lease.until - 40
        await rig.until(lambda: rig.worker._leases.locked.has(LOCKED, 0.0))
        assert lease.until == short
    await rig.until(lambda: lease.until > short)
    rig.gate.set()
    await rig.until(lambda: rig.worker.idle)
    assert (rig.requested, count(database, delivery)) == ([LOCKED], 0)


async def test_a_worker_that_stops_meanwhile_tries_once_more(
    rig: Rig, impatient: Database, database: Database, partner: Engine
) -> None:
    rig.gate.clear()
    commit(partner, LOCKED)
    await rig.until(lambda: rig.requested)
    with locked(partner, impatient):
        rig.gate.set()
        await rig.until(lambda: rig.worker._leases.locked.has(LOCKED, 0.0))
    await rig.worker.stop(DEADLINE_SECONDS)
    assert rig.worker.idle
    assert count(database, delivery) == 0


async def test_events_that_were_left_cause_no_hot_loop(
    rig: Rig, impatient: Database, database: Database, partner: Engine
) -> None:
    """However many ticks there are, the outbox is only read again after a polling interval."""
    known(database, partner, LOCKED)
    rig.worker._outbox._retry = 3_600.0
    collections = 0

    def count_collections(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        nonlocal collections
        collections += "vercel_collector" in statement

    with locked(partner, impatient):
        commit(partner, LOCKED)
        await rig.until(lambda: store.look(database, store.LOWEST_ID, store.LONG_AGO).to_collect)
        await rig.worker.tick()
        sa.event.listen(impatient.engine, "before_cursor_execute", count_collections)
        for _ in range(20):
            await rig.worker.tick()
    assert collections == 0
    rig.worker._outbox._not_before = 0.0  # as if the interval were over
    await rig.until(lambda: rig.requested == [LOCKED])
