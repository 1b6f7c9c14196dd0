"""The backlog is counted by what holds it up, on every database."""

from datetime import datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine

from dispatcher import store
from dispatcher.database.transactions import Database
from dispatcher.inspection.backlog import measure
from dispatcher.outbox.tables import delivery, installation, outbox
from dispatcher.policy.decision import Action, Decision
from tests.contract.steps import REJECTED, claim, settle, write


@pytest.fixture
def now(database: Database) -> datetime:
    """The database's clock."""
    with database.read() as connection:
        clock: datetime = connection.execute(sa.select(database.dialect.clock())).scalar_one()
    return clock


def collect(database: Database, partner: Engine, installation_id: str, *resources: str) -> None:
    with partner.begin() as connection:
        write(connection, *resources, installation_id=installation_id)
    store.collect(database, 500)


def change(database: Database, installation_id: str, **values: Any) -> None:
    with database.engine.begin() as connection:
        connection.execute(
            sa.update(installation).where(installation.c.installation_id == installation_id).values(**values)
        )


def pause(database: Database, installation_id: str, now: datetime) -> None:
    until = now + timedelta(hours=1)
    change(
        database,
        installation_id,
        pause_reason="unauthorized",
        paused_since=now,
        paused_until=until,
        due_at=until,
    )


def test_nothing_waits_in_an_empty_database(database: Database) -> None:
    backlog = measure(database)
    assert (backlog.left, backlog.oldest_event_age, backlog.dead_letters, backlog.paused_installations) == (
        0,
        0.0,
        {},
        {},
    )
    assert backlog.complete


@pytest.mark.varies
def test_each_delivery_is_counted_by_what_it_waits_for(database: Database, partner: Engine, now: datetime) -> None:
    later = now + timedelta(hours=1)
    collect(database, partner, "icfg_due", "db_1", "db_2")
    collect(database, partner, "icfg_throttled", "db_3")
    change(database, "icfg_throttled", throttled_until=later, due_at=later)
    collect(database, partner, "icfg_paused", "db_4", "db_5", "db_6")
    pause(database, "icfg_paused", now)
    with database.engine.begin() as connection:
        connection.execute(sa.update(delivery).where(delivery.c.resource_id == "db_2").values(due_at=later))
    with partner.begin() as connection:
        write(connection, "db_7", "db_7")
    backlog = measure(database)
    assert (backlog.outbox, backlog.due, backlog.waiting, backlog.paused) == (2, 1, 2, 3)
    assert backlog.paused_installations == {"unauthorized": 1}
    assert backlog.left == 8


def test_a_delivery_whose_installation_has_no_due_time_is_counted(database: Database, partner: Engine) -> None:
    collect(database, partner, "icfg_1", "db_1")
    change(database, "icfg_1", due_at=None)
    assert measure(database).left == 1


def test_the_oldest_event_is_in_the_outbox_or_a_delivery_but_not_a_paused_one(
    database: Database, partner: Engine, now: datetime
) -> None:
    ages = {"icfg_old": 60, "icfg_paused": 600}
    for installation_id, age in ages.items():
        collect(database, partner, installation_id, "db_1")
        with database.engine.begin() as connection:
            created = sa.update(delivery).where(delivery.c.installation_id == installation_id)
            connection.execute(created.values(first_created_at=now - timedelta(seconds=age)))
    pause(database, "icfg_paused", now)
    assert 60 <= measure(database).oldest_event_age < 300
    with partner.begin() as connection:
        statement = (
            "INSERT INTO vercel_outbox (installation_id, type, created_at) VALUES ('i', 'installation.updated', :at)"
        )
        ancient = (now - timedelta(seconds=300)).strftime("%Y-%m-%d %H:%M:%S.%f")
        utc = "+00" if database.dialect.name == "postgresql" else ""
        connection.execute(sa.text(statement), {"at": ancient + utc})
    assert 300 <= measure(database).oldest_event_age < 600


@pytest.mark.parametrize(
    ("server", "created_at"), [("sqlite", b"\xff"), ("postgresql", "-infinity")], indirect=["server"]
)
def test_a_meaningless_created_at_gives_no_age(database: Database, partner: Engine, created_at: object) -> None:
    with partner.begin() as connection:
        statement = (
            "INSERT INTO vercel_outbox (installation_id, type, created_at) VALUES ('i', 'installation.updated', :at)"
        )
        connection.execute(sa.text(statement), {"at": created_at})
    assert measure(database).oldest_event_age < 300


@pytest.mark.varies
def test_the_oldest_event_is_named_where_it_waits(database: Database, partner: Engine, now: datetime) -> None:
    assert measure(database).oldest_event is None
    with partner.begin() as connection:
        write(connection, "db_1", "db_2", installation_id="icfg_1")
    waiting = measure(database)
    store.collect(database, 500)
    collected = measure(database)
    for backlog in (waiting, collected):
        assert backlog.oldest_event is not None
        assert (backlog.oldest_event.installation_id, backlog.oldest_event.resource_id) == ("icfg_1", "db_1")
    assert waiting.oldest_event == collected.oldest_event
    pause(database, "icfg_1", now)
    assert measure(database).oldest_event is None


@pytest.mark.varies
def test_only_what_could_be_sent_now_is_overdue(database: Database, partner: Engine, now: datetime) -> None:
    hour, later = now - timedelta(hours=1), now + timedelta(hours=1)
    assert measure(database).overdue == 0.0
    for id_ in ("icfg_throttled", "icfg_paused", "icfg_held"):
        collect(database, partner, id_, "db_1")
    change(database, "icfg_throttled", throttled_until=later, due_at=later)
    pause(database, "icfg_paused", now)
    change(database, "icfg_paused", due_at=hour)
    change(database, "icfg_held", due_at=hour, lease_token="token", leased_until=later)
    assert measure(database).overdue == 0.0
    change(database, "icfg_held", leased_until=now - timedelta(minutes=1))
    assert 3_600 <= measure(database).overdue < 3_900


def test_an_event_that_is_not_collected_is_overdue(database: Database, partner: Engine, now: datetime) -> None:
    with partner.begin() as connection:
        write(connection, "db_1")
        ancient = sa.update(outbox).values(created_at=now - timedelta(minutes=10))
        connection.execute(ancient)
    assert 600 <= measure(database).overdue < 900


@pytest.mark.varies
def test_failing_installations_are_those_with_work_that_are_not_paused(
    database: Database, partner: Engine, now: datetime
) -> None:
    for id_ in ("icfg_failing", "icfg_paused", "icfg_idle", "icfg_fine"):
        collect(database, partner, id_, "db_1")
        change(database, id_, failures=3 if id_ != "icfg_fine" else 0)
    pause(database, "icfg_paused", now)
    change(database, "icfg_idle", due_at=None)
    backlog = measure(database)
    assert (backlog.failing, backlog.installations) == (1, 4)


def test_unresolved_dead_letters_are_counted_by_reason(database: Database, partner: Engine) -> None:
    collect(database, partner, "icfg_1", "db_1", "db_2")
    settle(database, *claim(database), decision=REJECTED)
    assert measure(database).dead_letters == {"rejected": 2}
    assert measure(database, max_dead_letters=3).dead_letters_complete
    cut = measure(database, max_dead_letters=1)
    assert (cut.dead_letters, cut.dead_letters_complete, cut.complete) == ({"rejected": 1}, False, True)
    collect(database, partner, "icfg_1", "db_1")
    settle(database, *claim(database), decision=Decision(Action.DELIVERED))
    assert measure(database).dead_letters == {"rejected": 1}


@pytest.mark.varies
def test_beyond_the_limit_the_figures_are_lower_bounds_and_count_the_most_urgent(
    database: Database, partner: Engine, now: datetime
) -> None:
    for n in range(4):
        collect(database, partner, f"icfg_paused_{n}", "db_1")
        pause(database, f"icfg_paused_{n}", now)
    collect(database, partner, "icfg_due", "db_1", "db_2")
    backlog = measure(database, limit=3)
    assert not backlog.complete
    assert backlog.due == 2
    assert backlog.left == 3
