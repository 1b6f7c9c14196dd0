"""What a collection makes of committed events: deliveries, and installations that are due."""

import json
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine

from dispatcher import store
from dispatcher.database.sqlite import Sqlite
from dispatcher.database.transactions import Database
from dispatcher.outbox.tables import collector, delivery, installation, outbox
from dispatcher.policy.decision import Action, Decision
from dispatcher.store.collection import MAX_CLOCK_SKEW, MAX_SETTLE_DELAYS
from tests.contract.databases import on_durable, on_sqlite
from tests.contract.row_locks import locked_by_another, locking, with_row_locks
from tests.contract.steps import ID, claim, collect, commits, count, deliver, settle, standing, write

DELAY = timedelta(seconds=10)
TICK = timedelta(milliseconds=1)


def only(database: Database, table: sa.Table) -> sa.Row[Any]:
    """The only row."""
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
    found = only(database, delivery)
    assert found.due_at == found.visible_at == only(database, installation).due_at == still.now() + DELAY


@pytest.mark.parametrize(
    "waited", [MAX_SETTLE_DELAYS * DELAY - TICK, MAX_SETTLE_DELAYS * DELAY], ids=["not yet", "long enough"]
)
def test_a_new_event_puts_its_subject_off_until_that_has_waited_for_ten_delays(
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
    found = only(database, delivery)
    assert (found.due_at, found.events, found.attempts) == (due, 2, 1)


def test_a_batch_says_what_it_moved_how_far_it_read_and_whether_more_may_wait(
    database: Database, partner: Engine
) -> None:
    commit(partner, "db_1", "db_2", "db_1")
    with database.read() as connection:
        ids = list(connection.execute(sa.select(outbox.c.id).order_by(outbox.c.id)).scalars())
    seen = [store.collect(database, 2) for _ in range(3)]
    assert [(one.events, one.left, one.full, one.last_event_id) for one in seen] == [
        (2, 0, True, ids[1]),
        (1, 0, False, ids[2]),
        (0, 0, False, 0),
    ]
    assert [len(one.subject_keys) for one in seen] == [2, 1, 0]
    assert [one.skipped for one in seen] == [False] * 3


def test_only_events_above_the_floor_are_moved(database: Database, partner: Engine) -> None:
    commit(partner, "db_1", "db_2")
    with database.read() as connection:
        first = connection.execute(sa.select(sa.func.min(outbox.c.id))).scalar_one()
    assert store.collect(database, 9, first).events == 1
    assert only(database, outbox).id == first
    assert only(database, delivery).resource_id == "db_2"


def test_the_newest_event_is_the_one_with_the_highest_id(database: Database, partner: Engine) -> None:
    """The ids of two collections may come in any order: who began first may commit last."""
    commit(partner, "db_1", "db_1")
    with database.read() as connection:
        first, second = connection.execute(sa.select(outbox.c.id).order_by(outbox.c.id)).scalars()
    store.collect(database, 9, first)
    store.collect(database, 9)
    found = only(database, delivery)
    assert (found.events, found.last_event_id) == (2, second)


def test_an_installation_that_is_due_already_stays_as_long_due(database: Database, partner: Engine) -> None:
    collect(database, partner, "db_1")
    for due_at in (store.LONG_AGO, database.now() - TICK):
        change(database, installation, due_at=due_at)
        collect(database, partner, "db_2")
        assert only(database, installation).due_at == due_at


def test_events_make_an_installation_due_that_was_to_wait_for_a_retry(database: Database, partner: Engine) -> None:
    collect(database, partner, "db_1")
    still = standing(database)
    change(database, installation, due_at=still.now() + DELAY)
    collect(still, partner, "db_2")
    assert only(database, installation).due_at == still.now()


@pytest.mark.parametrize(
    ("ahead", "heeded"), [(MAX_CLOCK_SKEW, True), (MAX_CLOCK_SKEW + TICK, False)], ids=["of another node", "set back"]
)
def test_a_rate_window_from_before_the_clock_was_set_back_keeps_nothing_waiting(
    database: Database, partner: Engine, ahead: timedelta, heeded: bool
) -> None:
    collect(database, partner, "db_1")
    settle(database, *claim(database))
    still = standing(database)
    later = still.now() + timedelta(hours=1)
    change(database, installation, last_delivered_at=still.now() + ahead, throttled_until=later)
    collect(still, partner, "db_1")
    assert only(database, installation).due_at == (later if heeded else still.now())


def test_a_collector_table_that_came_empty_is_no_obstacle(database: Database, partner: Engine) -> None:
    """A partner's own migrations create the tables, and no row."""
    with database.engine.begin() as connection:
        connection.execute(sa.delete(collector))
    with partner.begin() as connection:
        write(connection, "db_1")
    assert deliver(database) == ["db_1"]
    assert count(database, collector) == 1


@on_sqlite
def test_while_another_collects_nothing_is_moved_and_it_says_so(database: Database, partner: Engine) -> None:
    commit(partner, "db_1")
    with locked_by_another(database, collector.c.id, 1), locking(database) as locks:
        assert store.collect(database, 9) == store.Collected(skipped=True)
    assert locks == ["vercel_collector SKIP LOCKED"]
    assert (count(database, outbox), count(database, collector)) == (1, 1)


@on_sqlite
def test_a_collection_waits_for_an_installation_before_it_leaves_its_events(
    database: Database, partner: Engine
) -> None:
    collect(database, partner, "db_1")
    commit(partner, "db_2")
    patient = with_row_locks(database)
    with locking(database) as locks:
        store.collect(patient, 9)
    assert locks == ["vercel_collector SKIP LOCKED"]  # and what marks the installations waits for them
    commit(partner, "db_3")
    with locked_by_another(database, installation.c.installation_id, ID), locking(database) as locks:
        assert store.collect(patient, 9).left == 1
    assert locks[-2:] == ["vercel_collector SKIP LOCKED", "vercel_installation SKIP LOCKED"]
    assert [one.events for one in (store.collect(patient, 9), store.collect(patient, 9))] == [1, 0]


@on_sqlite
def test_a_collection_for_one_installation_waits_for_the_others_end(database: Database, partner: Engine) -> None:
    commit(partner, "db_1")
    with locking(database) as locks:
        assert store.collect_installation(database, ID, 9).events == 1
    assert locks[0] == "vercel_collector"
    assert "vercel_installation SKIP LOCKED" not in locks


def test_a_collection_for_one_installation_moves_its_events_alone(database: Database, partner: Engine) -> None:
    with partner.begin() as connection:
        write(connection, "db_1", "db_2")
        write(connection, "db_1", installation_id="icfg_2")
    assert [store.collect_installation(database, ID, 1).full for _ in range(3)] == [True, True, False]
    assert only(database, outbox).installation_id == "icfg_2"
    assert count(database, delivery) == 2


@on_durable
def test_a_collection_need_not_wait_for_the_disk(database: Database, partner: Engine) -> None:
    """What a crash of the database undoes is in the outbox again."""
    commit(partner, "db_1")
    with commits(database) as waits:
        store.collect(database, 9)
    assert waits == [False]


@on_sqlite
def test_rows_are_named_in_the_order_of_their_keys(database: Database, partner: Engine) -> None:
    """MySQL locks them in this order, which must be the same for all who lock several."""
    commit(partner, *(f"db_{number}" for number in range(9)))
    named: list[list[str]] = []

    def before(_connection: object, _cursor: object, statement: str, parameters: Any, *_: object) -> None:
        if "INSERT INTO vercel_delivery" in statement:
            (rows,) = (json.loads(one) for one in parameters if str(one).startswith("[{"))
            named.append([row["subject_key"] for row in rows])

    sa.event.listen(database.engine, "before_cursor_execute", before)
    store.collect(database, 9)
    assert len(named[0]) == 9
    assert named == [sorted(named[0])]


@on_sqlite
@pytest.mark.parametrize("writes", [True, False], ids=["a cluster", "one server"])
def test_only_where_a_lock_is_local_to_a_node_each_collection_writes_the_row_that_it_locks(
    database: Database, partner: Engine, writes: bool
) -> None:
    dialect = type("Node", (Sqlite,), {"writes_what_it_locks": writes})()
    node = Database(database.engine, dialect)
    seen = []
    for _ in range(3):
        collect(node, partner, "db_1")
        seen.append(only(database, installation).collections)
    assert seen == ([0, 1, 2] if writes else [0, 0, 0])
