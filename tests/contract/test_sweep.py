"""Periodic housekeeping: the safety net under the protocol, and pruning."""

from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine
from sqlalchemy.exc import OperationalError

from dispatcher import store
from dispatcher.database.transactions import Database, open_database
from dispatcher.outbox.tables import attempt, delivery, installation
from dispatcher.store.sweep import OVERDUE
from tests.contract.databases import on_sqlite
from tests.contract.row_locks import locking
from tests.contract.steps import claim, collect, count, deliver, settle, standing, write

TICK = timedelta(milliseconds=1)


def strand(database: Database, partner: Engine, *, due_at: object) -> None:
    """Makes a delivery that is long overdue although its installation is not due, or only due later."""
    with partner.begin() as connection:
        write(connection, "db_1")
    store.collect(database, 500)
    with database.engine.begin() as connection:
        now = connection.execute(sa.select(database.dialect.clock())).scalar_one()
        later = None if due_at is None else now + timedelta(hours=1)
        connection.execute(sa.update(delivery).values(due_at=now - 2 * OVERDUE))
        connection.execute(sa.update(installation).values(due_at=later))


@pytest.mark.varies
@pytest.mark.parametrize("due_at", [None, "later"])
def test_a_stranded_delivery_is_found_repaired_and_counted(database: Database, partner: Engine, due_at: object) -> None:
    strand(database, partner, due_at=due_at)
    assert claim(database) == ()
    assert store.repair(database) == 1
    assert store.repair(database) == 0
    assert deliver(database) == ["db_1"]


def test_a_delivery_that_waits_for_a_reason_is_not_stranded(database: Database, partner: Engine) -> None:
    strand(database, partner, due_at="later")
    with database.engine.begin() as connection:
        connection.execute(sa.update(installation).values(throttled_until=installation.c.due_at))
    assert store.repair(database) == 0


def test_old_attempts_are_pruned_a_chunk_at_a_time(database: Database, partner: Engine) -> None:
    with partner.begin() as connection:
        write(connection, *(f"db_{number}" for number in range(4)))
    deliver(database)
    assert store.prune(database, timedelta(days=1), timedelta(days=1)) == 0
    assert [store.prune(database, timedelta(0), timedelta(0), chunk=2) for _ in range(3)] == [2, 2, 0]
    assert count(database, attempt) == 0


def test_an_answer_that_is_settled_twice_is_counted_as_lost(database: Database, partner: Engine) -> None:
    with partner.begin() as connection:
        write(connection, "db_1")
    store.collect(database, 500)
    leased = claim(database)
    settle(database, *leased)
    assert settle(database, *leased).lost == {leased[0].installation_id}


def test_a_missing_installation_row_that_has_a_delivery_is_inserted_again(database: Database, partner: Engine) -> None:
    """For example after an operator deleted the row by hand."""
    for installation_id in ("icfg_1", "icfg_2"):
        collect(database, partner, "db_1", installation_id=installation_id)
    strand(database, partner, due_at=None)
    with database.engine.begin() as connection:
        connection.execute(sa.delete(installation).where(installation.c.installation_id == "icfg_2"))
    assert store.repair(database) == 2  # one is stranded, one is missing
    assert {one.installation_id for one in claim(database)} == {"icfg_1", "icfg_2"}
    assert store.repair(database) == 0


def test_a_delivery_that_has_just_become_due_is_not_overdue(database: Database, partner: Engine) -> None:
    """Its installation may be about to be made due."""
    strand(database, partner, due_at="later")
    with database.engine.begin() as connection:
        connection.execute(sa.update(delivery).values(due_at=database.dialect.clock()))
    assert store.repair(database) == 0


def test_only_the_stranded_installation_is_made_due(database: Database, partner: Engine) -> None:
    strand(database, partner, due_at="later")
    later = database.now() + timedelta(hours=1)
    with database.engine.begin() as connection:
        connection.execute(sa.insert(installation).values(installation_id="icfg_2", due_at=later))
    assert store.repair(database) == 1
    with database.read() as connection:
        due = dict(connection.execute(sa.select(installation.c.installation_id, installation.c.due_at)).all())
    assert due["icfg_1"] < due["icfg_2"] == later


@pytest.mark.parametrize("column", [installation.c.paused_until, installation.c.throttled_until])
def test_a_delivery_whose_reason_to_wait_is_over_is_stranded(
    database: Database, partner: Engine, column: sa.Column[Any]
) -> None:
    strand(database, partner, due_at="later")
    over = database.now() - timedelta(seconds=1)
    values: dict[sa.Column[Any], object] = {column: over}
    if column is installation.c.paused_until:
        values |= {installation.c.pause_reason: "unauthorized", installation.c.paused_since: over}
    with database.engine.begin() as connection:
        connection.execute(sa.update(installation).values(values))
    assert store.repair(database) == 1


def test_an_installation_that_is_leased_or_already_due_is_not_stranded(database: Database, partner: Engine) -> None:
    collect(database, partner, "db_1")
    with database.engine.begin() as connection:
        connection.execute(sa.update(delivery).values(due_at=store.LONG_AGO))
    assert store.repair(database) == 0  # due
    claim(database)
    with database.engine.begin() as connection:
        connection.execute(sa.update(installation).values(due_at=None))
    assert store.repair(database) == 0  # under a lease


def test_a_delivery_is_stranded_from_the_exact_moment_it_is_overdue(database: Database, partner: Engine) -> None:
    strand(database, partner, due_at="later")
    still = standing(database)
    for due_at, stranded in ((still.now() - OVERDUE + TICK, 0), (still.now() - OVERDUE, 1)):
        with database.engine.begin() as connection:
            connection.execute(sa.update(delivery).values(due_at=due_at))
        assert store.repair(still) == stranded


def test_an_installation_due_at_this_moment_is_not_stranded(database: Database, partner: Engine) -> None:
    strand(database, partner, due_at="later")
    still = standing(database)
    with database.engine.begin() as connection:
        connection.execute(sa.update(installation).values(due_at=still.now()))
    assert store.repair(still) == 0


def test_a_row_of_exactly_the_maximum_age_is_kept(database: Database, partner: Engine) -> None:
    collect(database, partner, "db_1")
    settle(database, *claim(database))
    still = standing(database)
    with database.engine.begin() as connection:
        connection.execute(sa.update(attempt).values(at=still.now() - OVERDUE))
    assert [store.prune(still, kept_for, OVERDUE) for kept_for in (OVERDUE, OVERDUE - TICK)] == [0, 1]


@on_sqlite
def test_an_installation_is_locked_before_it_is_checked_again_and_repaired(database: Database, partner: Engine) -> None:
    """Its holder may have corrected it in the meantime."""
    strand(database, partner, due_at="later")
    with locking(database) as locks:
        assert store.repair(database) == 1
    assert locks == ["vercel_installation"]


@on_sqlite
def test_a_read_only_file_is_noticed(database: Database) -> None:
    store.check_writes(database)
    path = database.engine.url.database
    read_only = open_database(f"sqlite:///file:{path}?mode=ro&uri=true")
    with pytest.raises(OperationalError, match="readonly"):
        store.check_writes(read_only)
    read_only.close()
