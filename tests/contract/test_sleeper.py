"""WAKEUP=notify on PostgreSQL: a commit wakes a sleeping dispatcher, and correctness does not depend on it."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine

from dispatcher.database import migration
from dispatcher.database.notifier import TRIGGER, Notifier, NotifierUnavailable, trigger_sql
from dispatcher.database.transactions import Database
from dispatcher.outbox.tables import outbox
from dispatcher.service.sleeper import (
    AWAKE_SECONDS,
    COOLDOWN_SECONDS,
    RECONNECT_SECONDS,
    UNARMED_PAUSE_SECONDS,
    Sleeper,
)
from dispatcher.worker.low_water import LAG_SECONDS
from dispatcher.worker.pace import Pace
from dispatcher.worker.worker import BUSY_PAUSE_SECONDS
from tests.contract.steps import write
from tests.contract.test_low_water import ClockedWorker

LONG = 3_600.0
SOON = 60.0
"""A slow machine must not look like a broken connection."""
RINGS = 300
CHANNEL = "'vercel_outbox_' || CAST('{}' AS regclass)::oid"
SERVERS = ["postgresql", pytest.param("postgresql-schema", marks=pytest.mark.variant)]
END_LISTENERS = """SELECT pg_terminate_backend(pid) FROM pg_locks JOIN pg_database d ON d.oid = database AND d.datname = current_database()
WHERE locktype = 'advisory' AND mode = 'ExclusiveLock'"""

pytestmark = [pytest.mark.parametrize("server", SERVERS, indirect=True), pytest.mark.varies]


@pytest.fixture(autouse=True)
def trigger(database: Database) -> None:
    """As `dispatcher schema --wakeup` prints it."""
    with database.engine.begin() as connection:
        connection.exec_driver_sql(trigger_sql(database.schema))


@pytest.fixture
async def notifiers(database: Database) -> AsyncIterator[tuple[Notifier, Notifier]]:
    """The notifiers of two dispatchers."""
    both = await Notifier.connect(database, SOON), await Notifier.connect(database, SOON)
    yield both
    for notifier in both:
        await notifier.close()


def commit(partner: Engine) -> None:
    with partner.begin() as connection:
        write(connection, "db_1")


async def test_a_commit_rings_and_a_rollback_does_not(notifiers: tuple[Notifier, Notifier], partner: Engine) -> None:
    notifier, _ = notifiers
    assert await notifier.arm()
    with partner.connect() as connection:
        write(connection, "db_1")
        connection.rollback()
    assert not await notifier.wait(0.2)
    commit(partner)
    assert await notifier.wait(SOON)


async def test_nobody_is_notified_while_no_dispatcher_sleeps(
    notifiers: tuple[Notifier, Notifier], partner: Engine
) -> None:
    notifier, _ = notifiers
    await notifier.arm()
    await notifier.disarm()
    commit(partner)
    assert not await notifier.wait(0.2)


async def test_the_notifier_cannot_be_armed_while_a_commit_that_would_not_ring_is_outstanding(
    notifiers: tuple[Notifier, Notifier], partner: Engine
) -> None:
    notifier, _ = notifiers
    with partner.begin() as connection:
        write(connection, "db_1")
        assert not await notifier.arm()
        assert not await notifier.is_armed_by_another()
    assert await notifier.arm()


async def test_one_sleeper_is_enough_to_wake_all(notifiers: tuple[Notifier, Notifier], partner: Engine) -> None:
    first, second = notifiers
    assert await first.arm()
    assert not await second.arm()
    assert await second.is_armed_by_another()
    commit(partner)
    assert await first.wait(SOON)
    assert await second.wait(SOON)
    await first.disarm()
    assert not await second.is_armed_by_another()
    assert await second.arm()


async def test_who_dies_asleep_leaves_no_lock(notifiers: tuple[Notifier, Notifier]) -> None:
    first, second = notifiers
    assert await first.arm()
    assert not await second.arm()
    await first.close()
    async with asyncio.timeout(SOON):
        while not await second.arm():
            await asyncio.sleep(0.02)
    assert second.armed


async def test_without_the_trigger_there_is_no_notifier(database: Database) -> None:
    with database.engine.begin() as connection:
        connection.execute(sa.text(f"DROP TRIGGER {TRIGGER} ON {_outbox(database)}"))
    with pytest.raises(NotifierUnavailable, match=r"dispatcher schema --dialect postgresql --wakeup"):
        await Notifier.connect(database)


async def test_tables_that_were_made_anew_are_noticed(notifiers: tuple[Notifier, Notifier], database: Database) -> None:
    migration.downgrade(database)
    migration.migrate(database)
    with pytest.raises(NotifierUnavailable, match="dropped and created again"):
        await notifiers[0].wait(0)


class Night:
    """A sleeper whose ticks find nothing unless the test sets `pause`, and a clock that the test moves."""

    def __init__(self, database: Database) -> None:
        self.now = 100.0
        self.pause = LONG
        self.ticks = 0
        self.during_tick: Callable[[], None] = lambda: None
        self.warnings: list[str] = []
        self.sweeps = 0
        self.sleeper = Sleeper(
            database, self._tick, self._sweep, self.warnings.append, answer_seconds=SOON, clock=lambda: self.now
        )

    async def _tick(self) -> float:
        self.ticks += 1
        pause = self.pause
        self.during_tick()
        return pause

    def _sweep(self) -> None:
        self.sweeps += 1

    async def tick(self) -> float:
        """Runs one tick, which must not take as long as a sleep."""
        async with asyncio.timeout(SOON):
            return await self.sleeper.tick()


@pytest.fixture
async def night(database: Database) -> AsyncIterator[Night]:
    made = Night(database)
    yield made
    await made.sleeper.close()


async def test_a_commit_ends_the_sleep_and_for_a_second_nobody_rings(night: Night, partner: Engine) -> None:
    assert await night.tick() == 0.0  # armed
    sleeping = asyncio.create_task(night.tick())
    await asyncio.to_thread(commit, partner)
    assert await sleeping == 0.0
    night.pause = BUSY_PAUSE_SECONDS
    assert await night.tick() == BUSY_PAUSE_SECONDS
    night.pause = LONG
    assert await night.tick() == BUSY_PAUSE_SECONDS
    commit(partner)
    night.now += 1.0
    assert await night.tick() == 0.0  # armed again, so the commit is found by looking
    sleeping = asyncio.create_task(night.tick())
    done, _ = await asyncio.wait([sleeping], timeout=0.3)
    assert not done, "a commit that need not notify has notified"
    await asyncio.to_thread(commit, partner)
    await sleeping


def ring(database: Database) -> None:
    """Notifies without an event, as any role of the database can."""
    with database.engine.begin() as connection:
        connection.exec_driver_sql(f"DO $$ BEGIN PERFORM pg_notify({CHANNEL.format(_outbox(database))}, ''); END $$")


async def test_who_rings_for_nothing_is_answered_at_once_and_then_no_sooner_than_polling_would(
    night: Night, database: Database
) -> None:
    assert await night.tick() == 0.0  # armed
    ring(database)
    assert await night.tick() == 0.0
    ring(database)
    assert await night.tick() == pytest.approx(COOLDOWN_SECONDS)
    ring(database)
    night.now += COOLDOWN_SECONDS / 2
    assert await night.tick() == pytest.approx(COOLDOWN_SECONDS)  # after each look that found nothing
    night.now += COOLDOWN_SECONDS
    night.pause = BUSY_PAUSE_SECONDS  # this look finds something
    assert await night.tick() == BUSY_PAUSE_SECONDS
    night.pause = LONG
    night.now += AWAKE_SECONDS
    assert await night.tick() == 0.0  # armed again
    ring(database)
    assert await night.tick() == 0.0


async def test_an_event_is_found_in_a_storm_of_rings_that_costs_no_more_looks_than_polling(
    night: Night, database: Database, partner: Engine
) -> None:
    night.sleeper = Sleeper(
        database, night._tick, night._sweep, night.warnings.append, answer_seconds=SOON
    )  # with the real clock
    found: list[int] = []

    def look() -> None:
        with database.read() as connection:
            found[:] = connection.execute(sa.select(outbox.c.id)).scalars()

    def storm() -> int:
        rings = 0
        while not found:
            ring(database)
            rings += 1
            if rings == RINGS:
                commit(partner)
        return rings

    night.during_tick = look
    began = time.monotonic()
    storming = asyncio.create_task(asyncio.to_thread(storm))
    async with asyncio.timeout(SOON):
        while not found:
            await asyncio.sleep(await night.tick())
    rings = await storming
    elapsed = time.monotonic() - began
    assert rings >= RINGS
    assert night.ticks <= elapsed / COOLDOWN_SECONDS + 4, f"{night.ticks} looks in {elapsed:.1f} s"


async def test_what_is_committed_after_the_look_and_before_the_notifier_is_armed_is_looked_for_again(
    night: Night, partner: Engine
) -> None:
    night.during_tick = lambda: commit(partner)
    assert await night.tick() == 0.0
    assert (night.ticks, night.sweeps) == (1, 1)  # and it did not sleep


async def test_while_a_commit_is_outstanding_that_will_not_ring_pauses_stay_short(
    night: Night, partner: Engine
) -> None:
    with partner.begin() as connection:
        write(connection, "db_1")
        assert await night.tick() == UNARMED_PAUSE_SECONDS
    assert await night.tick() == 0.0


async def test_while_there_is_work_it_does_not_sleep(night: Night) -> None:
    night.pause = BUSY_PAUSE_SECONDS
    assert await night.tick() == BUSY_PAUSE_SECONDS


async def test_a_broken_connection_only_means_polling_until_there_is_another(
    night: Night, database: Database, partner: Engine
) -> None:
    await night.tick()
    with database.engine.begin() as connection:
        connection.exec_driver_sql(END_LISTENERS)
    assert await night.tick() == LONG
    assert await night.tick() == LONG
    assert len(night.warnings) == 1
    night.now += RECONNECT_SECONDS
    assert await night.tick() == 0.0
    sleeping = asyncio.create_task(night.tick())
    await asyncio.to_thread(commit, partner)
    assert await sleeping == 0.0


async def test_why_there_is_no_notifier_is_said_once(night: Night, database: Database) -> None:
    with database.engine.begin() as connection:
        connection.execute(sa.text(f"DROP TRIGGER {TRIGGER} ON {_outbox(database)}"))
    for _ in range(3):
        assert await night.tick() == LONG
        night.now += RECONNECT_SECONDS
    (said,) = night.warnings
    assert TRIGGER in said


class Sleepy:
    """A worker that sleeps until it is notified. The test moves its clock in leaps, and its regular sweep never happens."""

    def __init__(self, database: Database, partner: Engine, watch: Notifier) -> None:
        self._moved = ClockedWorker(database, Pace(sweep_seconds=1e9), poll_interval=LONG)
        worker = self._moved.worker
        self.sleeper = Sleeper(
            database,
            worker.tick,
            worker.sweep,
            lambda _why: None,
            answer_seconds=SOON,
            clock=lambda: self._moved.now,
        )
        self._partner = partner
        self._watch = watch

    async def until(self, condition: Callable[[], Awaitable[bool]], leap: float) -> None:
        """Ticks until the condition holds, each time `leap` seconds later."""
        async with asyncio.timeout(SOON):
            while not await condition():
                self._moved.now += leap
                await self.sleeper.tick()
                await asyncio.sleep(0.001)

    async def sleeps(self) -> bool:
        """Whether the sleeper has armed its notifier."""
        return await self._watch.is_armed_by_another()

    async def announce(self, resource: str, leap: float = LAG_SECONDS) -> None:
        """Ticks until the worker has sent a request for this resource."""

        async def announced() -> bool:
            return resource in self._moved.announced

        await self.until(announced, leap)

    async def pass_by(self) -> None:
        """Commits and announces other changes, so that the low-water mark rises above ids that are not committed yet."""
        for number in range(4):
            with self._partner.begin() as quick:
                write(quick, f"early_{number}")
            await self.announce(f"early_{number}")

    async def close(self) -> None:
        await self.sleeper.close()
        await self._moved.worker.stop(0)
        self._moved.worker.close()


@pytest.fixture
async def sleepy(database: Database, partner: Engine, notifiers: tuple[Notifier, Notifier]) -> AsyncIterator[Sleepy]:
    made = Sleepy(database, partner, notifiers[0])
    yield made
    await made.close()


async def test_a_lower_id_that_is_committed_late_rings_and_is_found(sleepy: Sleepy, partner: Engine) -> None:
    await sleepy.until(sleepy.sleeps, LAG_SECONDS)
    with partner.begin() as slow:
        write(slow, "late")
        await sleepy.pass_by()
        await sleepy.until(sleepy.sleeps, LAG_SECONDS)
    await sleepy.announce("late", leap=0.0)


async def test_a_lower_id_that_was_committed_late_and_without_a_ring_is_found_before_it_sleeps(
    sleepy: Sleepy, partner: Engine
) -> None:
    with partner.begin() as slow:
        write(slow, "late")  # no dispatcher is asleep
        await sleepy.pass_by()
    await sleepy.announce("late")


def _outbox(database: Database) -> str:
    return f"{database.schema}.vercel_outbox" if database.schema else "vercel_outbox"
