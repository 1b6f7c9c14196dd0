"""A transaction that stays open: the sweep finds the events that it commits late, and the dead rows that it pins cost little."""

import asyncio
import time
from collections.abc import Callable, Iterator
from datetime import datetime

import httpx
import pytest
import sqlalchemy as sa
from pydantic import SecretStr
from sqlalchemy import Engine

from dispatcher import store
from dispatcher.credentials.sources import StaticCredentials
from dispatcher.database import migration
from dispatcher.database.transactions import Database, open_database
from dispatcher.outbox.tables import collector
from dispatcher.settings.settings import Settings
from dispatcher.transport.portable import HttpxTransport
from dispatcher.vercel.client import Vercel
from dispatcher.worker.low_water import LAG_SECONDS
from dispatcher.worker.pace import STANDARD, Pace
from dispatcher.worker.worker import Worker
from tests.contract.databases import on_servers
from tests.contract.steps import LEASE, settle, write

EVENTS, BATCH = 400_000, 1_000
SAMPLE = 20
MAX_RATIO = 3.5
"""How many times as long a round may take with this many dead rows. It takes about twice as long; without the marks, six times."""
INSERT_BATCH = (
    "INSERT INTO {} (installation_id, type, resource_id) "
    f"SELECT 'icfg_' || n % 20000, 'resource.updated', 'db_' || n FROM generate_series(:first, :first + {BATCH} - 1) n"
)


class ClockedWorker:
    """A worker whose monotonic clock the test moves, and the resources that it announced."""

    def __init__(self, database: Database, pace: Pace = STANDARD, poll_interval: float = 0.2) -> None:
        self.now = 1_000.0
        self.announced: list[str] = []
        self.worker = Worker(
            database,
            Vercel("https://vercel.test", HttpxTransport(httpx.MockTransport(self._receive)), 10.0),
            StaticCredentials(SecretStr("t0ken")),
            Settings(vercel_token=SecretStr("t0ken"), rate_limit=None, poll_interval=poll_interval),
            lambda _report: None,
            name="one",
            pace=pace,
            clock=lambda: self.now,
        )

    def _receive(self, request: httpx.Request) -> httpx.Response:
        self.announced.append(str(httpx.Response(200, content=request.content).json()["event"]["resourceId"]))
        return httpx.Response(201)

    async def tick(self, seconds: float) -> None:
        """Runs a tick after `seconds`, waits for its requests and runs another."""
        self.now += seconds
        await self.worker.tick()
        while self.worker.in_flight:
            await asyncio.sleep(0.001)
        await self.worker.tick()


async def commit_late(
    database: Database, partner: Engine, pace: Pace = STANDARD
) -> tuple[ClockedWorker, Callable[[], object]]:
    """Commits a lower id after the low-water mark has passed it. Returns the rig and the function that closes its worker."""
    rig = ClockedWorker(database, pace)
    with partner.connect() as slow, slow.begin() as open_transaction:
        write(slow, "late")
        for number in range(4):
            with partner.begin() as quick:
                write(quick, f"early_{number}")
            await rig.tick(LAG_SECONDS / 2)
        open_transaction.commit()
    assert rig.announced == [f"early_{number}" for number in range(4)]
    return rig, rig.worker.close


@pytest.mark.varies
@on_servers
async def test_the_sweep_finds_events_committed_below_the_mark(database: Database, partner: Engine) -> None:
    rig, close = await commit_late(database, partner)
    await rig.tick(0.1)
    assert "late" not in rig.announced  # the mark is really above it
    await rig.tick(STANDARD.sweep_seconds)
    assert "late" in rig.announced
    close()


@on_servers
async def test_a_skipped_collection_does_not_count_as_a_sweep(database: Database, partner: Engine) -> None:
    rig, close = await commit_late(database, partner)
    with partner.begin() as another:
        another.execute(sa.select(collector).with_for_update())
        await rig.tick(STANDARD.sweep_seconds)
    assert "late" not in rig.announced
    await rig.tick(0.1)
    assert "late" in rig.announced
    close()


@on_servers
async def test_without_the_sweep_the_event_would_be_lost(database: Database, partner: Engine) -> None:
    rig, close = await commit_late(database, partner, Pace(sweep_seconds=1e9))
    for _ in range(10):
        await rig.tick(STANDARD.sweep_seconds)
    assert "late" not in rig.announced
    close()


class Queue:
    """Takes events through all steps. Each scan begins where the last round ended."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.marks = store.LOWEST_ID, store.LONG_AGO
        self.events = 0

    def round(self) -> float:
        """Takes a batch from the INSERT to the settlement; returns the seconds spent looking, collecting and claiming."""
        table = f"{self._database.schema}.vercel_outbox" if self._database.schema else "vercel_outbox"
        with self._database.engine.begin() as connection:
            connection.execute(sa.text(INSERT_BATCH.format(table)), {"first": self.events})
        self.events += BATCH
        began = time.perf_counter()
        self.look(*self.marks)
        collected = store.collect(self._database, BATCH, self.marks[0])
        claimed = store.claim(
            self._database,
            installations=BATCH,
            deliveries=BATCH,
            lease=LEASE,
            leased_by="test",
            suspects=0,
            due_low_water=self.marks[1],
        )
        taken = time.perf_counter() - began
        assert collected.events == sum(len(lease.deliveries) for lease in claimed.leased) == BATCH
        settle(self._database, *claimed.leased)
        self.marks = collected.last_event_id, claimed.at
        return taken

    def look(self, lowest_id: int, due_low_water: datetime) -> float:
        """Looks from these marks on and returns the seconds taken."""
        began = time.perf_counter()
        store.look(self._database, lowest_id, due_low_water)
        return time.perf_counter() - began


@pytest.fixture
def fresh(database: Database) -> Iterator[Database]:
    """The same tables in another schema, without dead rows."""
    url = database.engine.url.render_as_string(hide_password=False)
    with database.engine.begin() as connection:
        connection.exec_driver_sql("CREATE SCHEMA IF NOT EXISTS fresh")
    opened = open_database(url, "fresh")
    migration.migrate(opened)
    yield opened
    opened.close()
    with database.engine.begin() as connection:
        connection.exec_driver_sql("DROP SCHEMA fresh CASCADE")


@pytest.mark.nightly
@pytest.mark.timeout(600)
@pytest.mark.parametrize("server", ["postgresql"], indirect=True)
def test_a_transaction_that_holds_back_vacuum_costs_little(
    database: Database, fresh: Database, partner: Engine
) -> None:
    """Alternates the databases and compares the fastest rounds: other processes on this machine only make rounds slower."""
    queue, other = Queue(database), Queue(fresh)
    with partner.connect().execution_options(isolation_level="REPEATABLE READ") as pinning:
        pinning.exec_driver_sql("SELECT count(*) FROM vercel_outbox")
        for _ in range(EVENTS // BATCH):
            queue.round()
        rounds = [(queue.round(), other.round()) for _ in range(SAMPLE)]
        looks = [(queue.look(*queue.marks), queue.look(store.LOWEST_ID, store.LONG_AGO)) for _ in range(SAMPLE)]
    pinned, unpinned = (min(taken) for taken in zip(*rounds, strict=True))
    assert pinned <= MAX_RATIO * unpinned
    with_marks, without = (min(taken) for taken in zip(*looks, strict=True))
    assert without > 2 * with_marks
