"""SETTLE_DELAY: a request that began before the newest event was visible everywhere is followed by another."""

from datetime import datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine

from dispatcher import store
from dispatcher.database.transactions import Database
from dispatcher.outbox.tables import delivery, installation
from dispatcher.policy.decision import Action, Decision
from tests.contract.steps import REJECTED, claim, collect, count, settle, write

DELAY = timedelta(hours=1)
RETRY = Decision(Action.RETRY, delay=-1)


def row(database: Database) -> sa.Row[Any]:
    with database.read() as connection:
        return connection.execute(sa.select(delivery)).one()


def change(database: Database, **values: datetime) -> None:
    with database.engine.begin() as connection:
        connection.execute(sa.update(delivery).values(values))


def commit(database: Database, partner: Engine, settle_delay: timedelta = DELAY) -> None:
    with partner.begin() as connection:
        write(connection, "db_1")
    store.collect(database, 500, settle_delay=settle_delay)


def make_visible(database: Database) -> None:
    """Makes the delivery due and visible, as if the delay had passed."""
    change(database, due_at=store.LONG_AGO, visible_at=store.LONG_AGO)
    with database.engine.begin() as connection:
        connection.execute(sa.update(installation).values(due_at=store.LONG_AGO))


def long_waiting(database: Database, partner: Engine) -> None:
    """Makes a delivery that has waited for so long that a new event no longer puts it off."""
    collect(database, partner, "db_1")
    change(database, first_created_at=store.LONG_AGO)
    commit(database, partner)


def in_backoff(database: Database, partner: Engine) -> None:
    """Makes a delivery in backoff that a new event has joined."""
    collect(database, partner, "db_1")
    settle(database, *claim(database), decision=RETRY)
    commit(database, partner)


@pytest.mark.varies
@pytest.mark.parametrize("prepare", [long_waiting, in_backoff])
def test_an_early_request_is_followed_by_one_after_the_delay(database: Database, partner: Engine, prepare: Any) -> None:
    collect(database, partner, "db_1")
    settle(database, *claim(database), decision=REJECTED)
    prepare(database, partner)
    began = database.now()
    (leased,) = claim(database)
    assert [one.early for one in leased.deliveries] == [True]
    assert settle(database, leased).superseded == 0
    left = row(database)
    assert left.due_at == left.visible_at > began + DELAY - timedelta(minutes=1)
    assert (left.attempts, left.last_status) == (0, None)
    assert left.first_created_at > began - timedelta(minutes=1)
    assert claim(database) == ()
    make_visible(database)
    (leased,) = claim(database)
    assert [one.early for one in leased.deliveries] == [False]
    assert settle(database, leased).superseded == 1
    assert count(database, delivery) == 0


def test_a_change_during_a_request_is_announced_after_its_own_delay(database: Database, partner: Engine) -> None:
    long_waiting(database, partner)
    began = database.now()
    (leased,) = claim(database)
    commit(database, partner)
    settle(database, leased)
    left = row(database)
    assert left.due_at == left.visible_at >= began + DELAY
    assert (left.events, left.first_created_at > began - timedelta(minutes=1)) == (3, True)


def test_without_a_delay_no_request_is_early_and_a_change_in_flight_is_due_at_once(
    database: Database, partner: Engine
) -> None:
    collect(database, partner, "db_1")
    (leased,) = claim(database)
    assert [one.early for one in leased.deliveries] == [False]
    collect(database, partner, "db_1")
    settle(database, leased)
    (leased,) = claim(database)
    assert [(one.early, one.events) for one in leased.deliveries] == [(False, 2)]
