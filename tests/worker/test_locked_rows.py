"""Another session, such as support, keeps an installation's row locked. A worker tries the row again once a second.

SQLite has no row locks: here the dispatcher's statements skip the row that a test marks as locked.
"""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
import sqlalchemy as sa
from pydantic import SecretStr
from sqlalchemy import Connection

from dispatcher import store
from dispatcher.database import migration
from dispatcher.database.transactions import Database, open_database
from dispatcher.outbox.tables import delivery, installation
from dispatcher.policy.installation_breaker import BREAKER_FAULTS
from dispatcher.settings.settings import Settings
from dispatcher.telemetry import LeaseLost
from dispatcher.worker.locked_rows import RETRY_SECONDS
from dispatcher.worker.worker import Worker
from tests.worker.conftest import DEADLINE_SECONDS, Held, Rig, answered, arrived
from tests.worker.test_leases import fail
from tests.worker.test_round_trips import counting_round_trips
from tests.worker.test_takeover import orphan

Result = TypeVar("Result")
LOCKED = "icfg_1"
OTHER = "icfg_2"


class LockingDatabase(Database):
    """A database whose steps have already waited for a locked row, and now skip it."""

    locked = False

    def transact_around_locks(self, step: Callable[[Connection, bool], Result], *, durable: bool = True) -> Result:
        return self.transact(lambda connection: step(connection, True), durable=durable)

    def skip(self, _connection: Connection, statement: Any, *parameters: Any) -> tuple[Any, ...]:
        """Makes a statement that locks rows skip this one."""
        locks = getattr(statement, "_for_update_arg", None)
        if self.locked and locks is not None and locks.skip_locked:
            statement = statement.where(installation.c.installation_id != LOCKED)
        return statement, *parameters[:2]


@pytest.fixture
def database(tmp_path: Path) -> Iterator[LockingDatabase]:
    opened = open_database(f"sqlite:///{tmp_path}/test.db")
    made = LockingDatabase(opened.engine, opened.dialect)
    sa.event.listen(made.engine, "before_execute", made.skip, retval=True)
    migration.migrate(made)
    yield made
    made.close()


@pytest.fixture
def settings() -> Settings:
    """Two requests at a time; the next tick settles their answers."""
    return Settings(vercel_token=SecretStr("t0ken"), concurrency=2, rate_limit=None)


def due(rig: Rig) -> list[str]:
    """Returns the installations of the unsettled deliveries."""
    return [row.installation_id for row in rig.rows(delivery)]


def has_lost(rig: Rig) -> bool:
    """Whether the worker has reported a lost lease."""
    return any(isinstance(report, LeaseLost) for report in rig.reports)


async def test_an_answer_waits_until_its_row_is_unlocked_and_other_answers_do_not(
    rig: Rig, database: LockingDatabase, worker: Worker
) -> None:
    held = Held(rig)
    rig.commit("db_1", installation_id=LOCKED)
    rig.commit("db_1", installation_id=OTHER)
    await worker.tick()
    await arrived(rig, 2)
    database.locked = True
    held.release(2)
    await answered(rig, 2)
    await worker.tick()
    assert (due(rig), worker.idle) == ([LOCKED], False)
    with counting_round_trips(database) as round_trips:
        await worker.tick()
    assert round_trips.transactions == 1  # only the look; the row is not tried
    database.locked = False
    rig.now += RETRY_SECONDS
    await rig.until(lambda: worker.idle, worker)
    assert (due(rig), len(rig.requests), has_lost(rig)) == ([], 2, False)
    assert [row.lease_token for row in rig.rows(installation)] == [None, None]


async def test_a_later_answer_for_the_locked_row_waits_with_the_first(
    rig: Rig, database: LockingDatabase, worker: Worker
) -> None:
    held = Held(rig)
    rig.commit("db_1", "db_2")
    await worker.tick()
    await arrived(rig, 2)
    database.locked = True
    for number in (1, 2):
        held.release()
        await answered(rig, number)
        await worker.tick()
    database.locked = False
    await worker.tick()
    assert len(due(rig)) == 2
    rig.now += RETRY_SECONDS
    await rig.until(lambda: worker.idle, worker)
    assert (due(rig), len(rig.requests), has_lost(rig)) == ([], 2, False)


async def test_a_delivery_whose_answer_waits_is_not_sent_again(
    rig: Rig, database: LockingDatabase, worker: Worker
) -> None:
    """Although the installation is read several times meanwhile."""
    held = Held(rig)
    rig.commit("db_1")
    await worker.tick()
    await arrived(rig, 1)
    database.locked = True
    held.release(9)
    await answered(rig, 1)
    await worker.tick()
    database.locked = False
    rig.now += RETRY_SECONDS - 0.1
    rig.commit("db_2")
    for _ in range(3):
        await worker.tick()
    assert rig.bodies() == ["db_1"]
    rig.now += 0.1
    await rig.until(lambda: worker.idle and not due(rig), worker)
    assert rig.bodies() == ["db_1", "db_2"]


async def test_a_worker_that_stops_tries_the_row_once_more(rig: Rig, database: LockingDatabase, worker: Worker) -> None:
    held = Held(rig)
    rig.commit("db_1")
    await worker.tick()
    await arrived(rig, 1)
    database.locked = True
    held.release()
    await answered(rig, 1)
    await worker.tick()
    database.locked = False
    await worker.stop(DEADLINE_SECONDS)
    assert (due(rig), [row.lease_token for row in rig.rows(installation)]) == ([], [None])


@pytest.mark.parametrize("faults", [0, BREAKER_FAULTS], ids=["healthy", "probed"])
async def test_a_lease_that_ends_soon_is_renewed_a_second_later_and_not_given_up(
    rig: Rig, database: LockingDatabase, worker: Worker, faults: int
) -> None:
    fail(rig, faults)
    held = Held(rig)
    rig.commit(*(f"db_{number}" for number in range(4)))
    await worker.tick()
    await arrived(rig, 1)
    (before,) = rig.rows(installation)
    database.locked = True
    rig.now = rig.settings.lease / 2 + 1
    await asyncio.sleep(0.01)  # the row's times are by the database's clock
    await worker.tick()
    database.locked = False
    await worker.tick()
    assert [row.leased_until for row in rig.rows(installation)] == [before.leased_until]
    rig.now += RETRY_SECONDS
    await worker.tick()
    assert [row.leased_until > before.leased_until for row in rig.rows(installation)] == [True]
    held.release(4)
    await rig.until(lambda: worker.idle, worker)
    assert (len(rig.requests), has_lost(rig)) == (4, False)


async def test_a_dead_workers_lease_that_was_taken_over_is_tried_a_second_later(
    rig: Rig, database: LockingDatabase, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    orphan(rig, LOCKED)
    claim = store.claim

    def claim_and_lock(*arguments: Any, **options: Any) -> store.Claimed:
        claimed = claim(*arguments, **options)
        database.locked = True
        return claimed

    monkeypatch.setattr(store, "claim", claim_and_lock)
    await worker.tick()
    monkeypatch.undo()
    database.locked = False
    for _ in range(3):
        await worker.tick()
    assert (rig.requests, has_lost(rig)) == ([], False)
    rig.now += RETRY_SECONDS
    await rig.until(lambda: bool(rig.requests) and worker.idle, worker)
    assert (due(rig), len(rig.requests)) == ([], 1)
