"""A claim and the lease that it takes: its holder, its duration, and the deliveries read."""

from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine

from dispatcher import store
from dispatcher.database.transactions import Database
from dispatcher.outbox.tables import installation
from tests.contract.databases import on_durable, on_sqlite
from tests.contract.row_locks import locked_by_another, locking, with_row_locks
from tests.contract.steps import ID, LEASE, claim, collect, commits, expire_leases, standing


def row(database: Database) -> sa.Row[Any]:
    with database.read() as connection:
        return connection.execute(sa.select(installation)).one()


def claim_one(database: Database, lease: timedelta = LEASE, **others: Any) -> store.Claimed:
    """Claims at most one installation."""
    return store.claim(database, installations=1, deliveries=9, lease=lease, leased_by="one", suspects=0, **others)


@pytest.mark.varies
def test_a_lease_begins_now_and_names_its_holder(database: Database, partner: Engine) -> None:
    collect(database, partner, "db_1")
    still = standing(database)
    claimed = claim_one(still)
    leased = row(database)
    assert (leased.leased_by, leased.leased_until, claimed.at) == ("one", still.now() + LEASE, still.now())
    assert leased.lease_token == claimed.leased[0].token
    store.renew(still, {ID: leased.lease_token}, 2 * LEASE)
    assert row(database).leased_until == still.now() + 2 * LEASE
    assert claim(still) == ()


def test_a_lease_has_expired_at_the_moment_when_it_ends(database: Database, partner: Engine) -> None:
    collect(database, partner, "db_1")
    still = standing(database)
    assert [len(claim_one(still, lease).leased) for lease in (timedelta(), LEASE, LEASE)] == [1, 1, 0]


def test_an_installation_due_at_this_moment_is_claimed(database: Database, partner: Engine) -> None:
    still = standing(database)
    collect(still, partner, "db_1")
    assert store.look(still, store.LOWEST_ID, still.now()) == store.Work(to_collect=False, to_claim=True)
    (leased,) = claim_one(still, due_low_water=still.now()).leased
    assert [one.subject.resource_id for one in leased.deliveries] == ["db_1"]


def test_an_installation_due_below_the_mark_or_later_is_ignored(database: Database, partner: Engine) -> None:
    still = standing(database)
    collect(still, partner, "db_1")
    tick = timedelta(milliseconds=1)
    assert not store.look(still, store.LOWEST_ID, still.now() + tick).to_claim
    assert claim_one(still, due_low_water=still.now() + tick).leased == ()
    with database.engine.begin() as connection:
        connection.execute(sa.update(installation).values(due_at=still.now() + tick))
    assert not store.look(still, store.LOWEST_ID, store.LONG_AGO).to_claim
    assert claim_one(still).leased == ()


def test_a_look_sees_only_the_events_above_its_mark(database: Database, partner: Engine) -> None:
    collect(database, partner, "db_1")
    (leased,) = claim(database)
    last = leased.deliveries[0].last_event_id
    with partner.begin() as connection:
        connection.exec_driver_sql(
            f"INSERT INTO {database.schema + '.' if database.schema else ''}vercel_outbox"
            f" (installation_id, type, resource_id) VALUES ('{ID}', 'resource.updated', 'db_1')"
        )
    assert store.look(database, last, store.LONG_AGO).to_collect
    assert not store.look(database, last + 1, store.LONG_AGO).to_collect


def test_a_claim_reports_whether_more_may_be_due(database: Database, partner: Engine) -> None:
    for installation_id in ("icfg_1", "icfg_2"):
        collect(database, partner, "db_1", installation_id=installation_id)
    assert [claim_one(database).full for _ in range(3)] == [True, True, False]
    expire_leases(database)
    more = store.claim(database, installations=3, deliveries=9, lease=LEASE, leased_by="one", suspects=0)
    assert (len(more.leased), more.full) == (2, False)


def test_a_claim_returns_how_long_a_paused_installation_has_been_paused(database: Database, partner: Engine) -> None:
    collect(database, partner, "db_1")
    still = standing(database)
    day = timedelta(days=1)
    with database.engine.begin() as connection:
        paused = {"pause_reason": "disabled", "paused_since": still.now() - day, "paused_until": still.now()}
        connection.execute(sa.update(installation).values(paused))
    assert [one.paused_for for one in claim_one(still).leased] == [day]


@on_sqlite
def test_an_installation_that_another_dispatcher_is_claiming_is_skipped_without_waiting(
    database: Database, partner: Engine
) -> None:
    for installation_id in ("icfg_1", "icfg_2"):
        collect(database, partner, "db_1", installation_id=installation_id)
    with locked_by_another(database, installation.c.installation_id, "icfg_1"), locking(database) as locks:
        assert [one.installation_id for one in claim(database)] == ["icfg_2"]
    assert locks == ["vercel_installation SKIP LOCKED"]


@pytest.mark.varies
@on_durable
def test_a_lease_need_not_wait_for_the_disk(database: Database, partner: Engine) -> None:
    """Losing a lease in a crash of the database is the same as the lease expiring."""
    collect(database, partner, "db_1")
    with commits(database) as waits:
        (leased,) = claim(database)
        store.pull(database, {ID: leased.token}, 9, LEASE)
        store.renew(database, {ID: leased.token}, LEASE)
    assert waits == [False] * 3


@on_sqlite
def test_a_lease_whose_row_is_locked_is_distinguished_from_a_lost_one(database: Database, partner: Engine) -> None:
    for installation_id in ("icfg_free", "icfg_locked", "icfg_lost"):
        collect(database, partner, "db_1", installation_id=installation_id)
    tokens = {one.installation_id: one.token for one in claim(database)} | {"icfg_lost": "another"}
    impatient = with_row_locks(database)
    with locked_by_another(database, installation.c.installation_id, "icfg_locked"):
        renewed = store.renew(impatient, tokens, LEASE)
    assert (list(renewed.deliveries), renewed.locked) == (["icfg_free"], frozenset({"icfg_locked"}))
    assert store.renew(impatient, tokens, LEASE).locked == frozenset()
