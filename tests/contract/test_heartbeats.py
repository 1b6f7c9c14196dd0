"""Heartbeats: operators see which dispatchers run, on every database."""

from datetime import timedelta
from typing import Any

import sqlalchemy as sa

from dispatcher import store
from dispatcher.database.transactions import Database
from dispatcher.inspection.dispatchers import SILENT_AFTER, Dispatcher, read_dispatchers
from dispatcher.outbox.tables import dispatcher
from dispatcher.store import Heartbeat


def beat(database: Database, name: str = "one", **state: Any) -> None:
    store.beat(
        database,
        Heartbeat(**{"name": name, "version": "1.0", "in_flight": 0, "is_outage": False, "is_first": False, **state}),
    )


def seen(database: Database) -> tuple[Dispatcher, ...]:
    now = database.now()
    with database.read() as connection:
        found = read_dispatchers(database, connection, now)
    assert found is not None
    return found


def make_silent(database: Database, name: str, silent_for: timedelta) -> None:
    at = database.now() - silent_for
    with database.engine.begin() as connection:
        connection.execute(sa.update(dispatcher).where(dispatcher.c.name == name).values(seen_at=at))


def test_a_heartbeat_tells_what_the_dispatcher_does(database: Database) -> None:
    before = database.now()
    beat(database, in_flight=3, is_first=True)
    (one,) = seen(database)
    assert (one.name, one.version, one.in_flight, one.outage, one.is_running) == ("one", "1.0", 3, None, True)
    assert before <= one.started_at == one.seen_at
    beat(database, version="1.1")
    (later,) = seen(database)
    assert (later.version, later.in_flight, later.started_at) == ("1.1", 0, one.started_at)
    assert later.seen_at > one.seen_at


def test_a_dispatcher_that_starts_again_under_the_same_name_has_a_new_start(database: Database) -> None:
    beat(database, is_first=True)
    (first,) = seen(database)
    beat(database, is_first=True)
    (again,) = seen(database)
    assert again.started_at > first.started_at


def test_an_outage_has_its_beginning_until_it_is_over(database: Database) -> None:
    beat(database, is_outage=True, is_first=True)
    (began,) = seen(database)
    assert began.outage == began.seen_at
    beat(database, is_outage=True)
    (goes_on,) = seen(database)
    assert goes_on.outage == began.outage
    beat(database)
    assert seen(database)[0].outage is None
    beat(database, is_outage=True)
    (another,) = seen(database)
    assert another.outage == another.seen_at


def test_silent_dispatchers_come_last_and_are_forgotten_in_the_end(database: Database) -> None:
    for name in ("a", "b", "c"):
        beat(database, name)
    make_silent(database, "a", SILENT_AFTER)
    make_silent(database, "b", 3 * SILENT_AFTER)
    assert [(one.name, one.is_running) for one in seen(database)] == [("c", True), ("a", False), ("b", False)]
    store.forget_silent(database, 2 * SILENT_AFTER)
    assert [one.name for one in seen(database)] == ["c", "a"]


def test_a_dispatcher_that_stops_is_forgotten_at_once(database: Database) -> None:
    beat(database, "a")
    beat(database, "b")
    store.leave(database, "a")
    store.leave(database, "unknown")
    assert [one.name for one in seen(database)] == ["b"]
