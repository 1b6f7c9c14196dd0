"""A collection turns committed events into deliveries and makes their installations due."""

from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine

from dispatcher import store
from dispatcher.database.sqlite import Sqlite
from dispatcher.database.transactions import Database
from dispatcher.outbox.events import RESOURCE_UPDATED, Subject
from dispatcher.outbox.tables import collector, delivery, installation, outbox
from dispatcher.policy.decision import Action, Decision
from dispatcher.store.collection import MAX_CLOCK_SKEW, MAX_SETTLE_DELAYS
from tests.contract.databases import on_durable, on_servers, on_sqlite
from tests.contract.row_locks import locked_by_another, locking, with_row_locks
from tests.contract.steps import (
    ID,
    claim,
    collect,
    commits,
    count,
    deliver,
    in_background,
    settle,
    standing,
    stays_blocked,
    write,
)

DELAY = timedelta(seconds=10)
TICK = timedelta(milliseconds=1)


def only(database: Database, table: sa.Table) -> sa.Row[Any]:
    with database.read() as connection:
        return connection.execute(sa.select(table)).one()


def change(database: Database, table: sa.Table, **values: object) -> None:
    with database.engine.begin() as connection:
        connection.execute(sa.update(table).values(values))


def commit(partner: Engine, *resources: str) -> None:
    with partner.begin() as connection:
        write(connection, *resources)


@pytest.mark.varies
def test_an_event_is_due_and_visible_after_the_settle_delay(database: Database, partner: Engine) -> None:
    still = standing(database)
    commit(partner, "db_1")
    store.collect(still, 9, settle_delay=DELAY)
    row = only(database, delivery)
    assert row.due_at == row.visible_at == only(database, installation).due_at == still.now() + DELAY


@pytest.mark.parametrize(
    "waited", [MAX_SETTLE_DELAYS * DELAY - TICK, MAX_SETTLE_DELAYS * DELAY], ids=["not yet", "long enough"]
)
def test_new_events_put_their_subject_off_until_it_has_waited_for_ten_delays(
    database: Database, partner: Engine, waited: timedelta
) -> None:
    still = standing(database)
    collect(still, partner, "db_1")
    change(database, delivery, first_created_at=still.now() - waited)
    commit(partner, "db_1")
    store.collect(still, 9, settle_delay=DELAY)
    put_off = waited < MAX_SETTLE_DELAYS * DELAY
    assert only(database, delivery).due_at == still.now() + (DELAY if put_off else timedelta())
    assert only(database, delivery).visible_at == still.now() + DELAY


def test_a_new_event_does_not_end_the_backoff_of_its_subject(database: Database, partner: Engine) -> None:
    collect(database, partner, "db_1")
    settle(database, *claim(database), decision=Decision(Action.RETRY, delay=3_600.0))
    due = only(database, delivery).due_at
    collect(database, partner, "db_1")
    row = only(database, delivery)
    assert (row.due_at, row.events, row.attempts) == (due, 2, 1)


def test_a_batch_reports_what_it_moved_how_far_it_read_and_whether_more_may_wait(
    database: Database, partner: Engine
) -> None:
    commit(partner, "db_1", "db_2", "db_1")
    with database.read() as connection:
        ids = list(connection.execute(sa.select(outbox.c.id).order_by(outbox.c.id)).scalars())
    batches = [store.collect(database, 2) for _ in range(3)]
    assert [(one.events, one.left, one.full, one.last_event_id) for one in batches] == [
        (2, 0, True, ids[1]),
        (1, 0, False, ids[2]),
        (0, 0, False, 0),
    ]
    assert [len(one.subject_keys) for one in batches] == [2, 1, 0]
    assert [one.skipped for one in batches] == [False] * 3


def test_only_events_above_the_floor_are_moved(database: Database, partner: Engine) -> None:
    commit(partner, "db_1", "db_2")
    with database.read() as connection:
        first = connection.execute(sa.select(sa.func.min(outbox.c.id))).scalar_one()
    assert store.collect(database, 9, first).events == 1
    assert only(database, outbox).id == first
    assert only(database, delivery).resource_id == "db_2"


def test_the_newest_event_is_the_one_with_the_highest_id(database: Database, partner: Engine) -> None:
    """Two collections may see the ids in any order: the transaction that began first may commit last."""
    commit(partner, "db_1", "db_1")
    with database.read() as connection:
        first, second = connection.execute(sa.select(outbox.c.id).order_by(outbox.c.id)).scalars()
    store.collect(database, 9, first)
    store.collect(database, 9)
    row = only(database, delivery)
    assert (row.events, row.last_event_id) == (2, second)


def test_an_installation_that_is_already_due_keeps_its_due_time(database: Database, partner: Engine) -> None:
    collect(database, partner, "db_1")
    for due_at in (store.LONG_AGO, database.now() - TICK):
        change(database, installation, due_at=due_at)
        collect(database, partner, "db_2")
        assert only(database, installation).due_at == due_at


def test_new_events_make_an_installation_due_that_waits_for_a_retry(database: Database, partner: Engine) -> None:
    collect(database, partner, "db_1")
    still = standing(database)
    change(database, installation, due_at=still.now() + DELAY)
    collect(still, partner, "db_2")
    assert only(database, installation).due_at == still.now()


@pytest.mark.parametrize(
    ("ahead", "applies"), [(MAX_CLOCK_SKEW, True), (MAX_CLOCK_SKEW + TICK, False)], ids=["of another node", "set back"]
)
def test_a_rate_window_from_before_the_clock_was_set_back_delays_nothing(
    database: Database, partner: Engine, ahead: timedelta, applies: bool
) -> None:
    collect(database, partner, "db_1")
    settle(database, *claim(database))
    still = standing(database)
    later = still.now() + timedelta(hours=1)
    change(database, installation, last_delivered_at=still.now() + ahead, throttled_until=later)
    collect(still, partner, "db_1")
    assert only(database, installation).due_at == (later if applies else still.now())


def test_an_empty_collector_table_is_no_obstacle(database: Database, partner: Engine) -> None:
    """A partner's own migrations create the tables but insert no row."""
    with database.engine.begin() as connection:
        connection.execute(sa.delete(collector))
    with partner.begin() as connection:
        write(connection, "db_1")
    assert deliver(database) == ["db_1"]
    assert count(database, collector) == 1


@on_sqlite
def test_while_another_dispatcher_collects_nothing_is_moved_and_the_result_is_skipped(
    database: Database, partner: Engine
) -> None:
    commit(partner, "db_1")
    with locked_by_another(database, collector.c.id, 1), locking(database) as locks:
        assert store.collect(database, 9) == store.Collected(skipped=True)
    assert locks == ["vercel_collector SKIP LOCKED"]
    assert (count(database, outbox), count(database, collector)) == (1, 1)


@on_sqlite
def test_a_collection_first_waits_for_a_locked_installation_and_then_leaves_its_events(
    database: Database, partner: Engine
) -> None:
    collect(database, partner, "db_1")
    commit(partner, "db_2")
    patient = with_row_locks(database)
    with locking(database) as locks:
        store.collect(patient, 9)
    assert locks == ["vercel_collector SKIP LOCKED"]  # the statement that marks the installations waits for them
    commit(partner, "db_3")
    with locked_by_another(database, installation.c.installation_id, ID), locking(database) as locks:
        assert store.collect(patient, 9).left == 1
    assert locks[-2:] == ["vercel_collector SKIP LOCKED", "vercel_installation SKIP LOCKED"]
    assert [one.events for one in (store.collect(patient, 9), store.collect(patient, 9))] == [1, 0]


@on_sqlite
def test_a_collection_for_one_installation_waits_for_the_other_collector(database: Database, partner: Engine) -> None:
    commit(partner, "db_1")
    with locking(database) as locks:
        assert store.collect_installation(database, ID, 9).events == 1
    assert locks[0] == "vercel_collector"
    assert "vercel_installation SKIP LOCKED" not in locks


def test_a_collection_for_one_installation_moves_only_its_events(database: Database, partner: Engine) -> None:
    with partner.begin() as connection:
        write(connection, "db_1", "db_2")
        write(connection, "db_1", installation_id="icfg_2")
    assert [store.collect_installation(database, ID, 1).full for _ in range(3)] == [True, True, False]
    assert only(database, outbox).installation_id == "icfg_2"
    assert count(database, delivery) == 2


@pytest.mark.varies
@on_durable
def test_a_collection_need_not_wait_for_the_disk(database: Database, partner: Engine) -> None:
    """If the database crashes and loses the collection, the events are still in the outbox."""
    commit(partner, "db_1")
    with commits(database) as waits:
        store.collect(database, 9)
    assert waits == [False]


@on_servers
def test_deliveries_are_locked_in_the_order_of_their_keys(database: Database, partner: Engine) -> None:
    """The order must be the same for all transactions that lock several rows."""
    resources = [f"db_{number}" for number in range(9)]
    collect(database, partner, *resources)
    commit(partner, *resources)
    keys = sorted(Subject(ID, RESOURCE_UPDATED, resource).key for resource in resources)
    lock = sa.select(delivery.c.subject_key).with_for_update(skip_locked=True)
    with database.engine.connect() as first, database.engine.connect() as other:
        transaction = first.begin()
        first.execute(sa.select(delivery).where(delivery.c.subject_key == keys[4]).with_for_update())
        with in_background(lambda: store.collect(database, 9)) as collecting:
            try:
                assert stays_blocked(collecting, database)
                with other.begin():
                    assert sorted(other.execute(lock).scalars()) == keys[5:]
            finally:
                transaction.rollback()
    assert collecting.result().events == 9


@on_sqlite
@pytest.mark.parametrize("writes", [True, False], ids=["a cluster", "one server"])
def test_only_where_locks_are_local_to_a_node_each_collection_writes_the_row_that_it_locks(
    database: Database, partner: Engine, writes: bool
) -> None:
    dialect = type("Node", (Sqlite,), {"writes_what_it_locks": writes})()
    node = Database(database.engine, dialect)
    collections = []
    for _ in range(3):
        collect(node, partner, "db_1")
        collections.append(only(database, installation).collections)
    assert collections == ([0, 1, 2] if writes else [0, 0, 0])
