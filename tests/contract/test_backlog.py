"""The backlog is counted by what holds it up, on every database."""

from datetime import datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine

from dispatcher import store
from dispatcher.database.transactions import Database
from dispatcher.inspection.backlog import measure
from dispatcher.outbox.tables import delivery, installation
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


def test_unresolved_dead_letters_are_counted_by_reason(database: Database, partner: Engine) -> None:
    collect(database, partner, "icfg_1", "db_1", "db_2")
    settle(database, *claim(database), decision=REJECTED)
    assert measure(database).dead_letters == {"rejected": 2}
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
