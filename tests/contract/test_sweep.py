"""What runs now and then: the net under the protocol, and the pruning."""

from datetime import timedelta

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine

from dispatcher import store
from dispatcher.database.transactions import Database
from dispatcher.outbox.tables import attempt, collector, delivery, installation
from dispatcher.store.sweep import OVERDUE
from tests.contract.steps import claim, count, deliver, settle, write


def strand(database: Database, partner: Engine, *, due_at: object) -> None:
    """A delivery that is long overdue, and an installation that says nothing, or something later, is due."""
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
def test_a_stranded_delivery_is_found_mended_and_counted(database: Database, partner: Engine, due_at: object) -> None:
    strand(database, partner, due_at=due_at)
    assert claim(database) == ()
    assert store.mend(database) == 1
    assert store.mend(database) == 0
    assert deliver(database) == ["db_1"]


def test_what_waits_for_a_reason_is_not_stranded(database: Database, partner: Engine) -> None:
    strand(database, partner, due_at="later")
    with database.engine.begin() as connection:
        connection.execute(sa.update(installation).values(throttled_until=installation.c.due_at))
    assert store.mend(database) == 0


def test_old_attempts_are_pruned_a_chunk_at_a_time(database: Database, partner: Engine) -> None:
    with partner.begin() as connection:
        write(connection, *(f"db_{number}" for number in range(4)))
    deliver(database)
    assert store.prune(database, timedelta(days=1), timedelta(days=1)) == 0
    assert [store.prune(database, timedelta(0), timedelta(0), chunk=2) for _ in range(3)] == [2, 2, 0]
    assert count(database, attempt) == 0


def test_a_collector_table_that_came_empty_is_no_obstacle(database: Database, partner: Engine) -> None:
    """A partner's own migrations create the tables, and no row."""
    with database.engine.begin() as connection:
        connection.execute(sa.delete(collector))
    with partner.begin() as connection:
        write(connection, "db_1")
    assert deliver(database) == ["db_1"]
    assert count(database, collector) == 1


def test_an_answer_that_is_settled_twice_is_counted_as_lost(database: Database, partner: Engine) -> None:
    with partner.begin() as connection:
        write(connection, "db_1")
    store.collect(database, 500)
    leased = claim(database)
    settle(database, *leased)
    assert settle(database, *leased).lost == {leased[0].installation_id}
