"""A claim and the lease that it takes: its holder, its duration, and the deliveries read."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import Connection, Engine

from dispatcher import store
from dispatcher.database.transactions import Database
from dispatcher.outbox.tables import delivery, installation
from tests.contract.databases import on_durable, on_postgresql, on_servers, on_sqlite
from tests.contract.row_locks import locked_by_another, locking, with_row_locks
from tests.contract.steps import ID, LEASE, claim, collect, commits, expire_leases, standing, write


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


def test_a_claim_returns_first_what_has_been_due_longest(database: Database, partner: Engine) -> None:
    ids = ["icfg_2", "icfg_3", "icfg_1"]
    for installation_id in ids:
        collect(database, partner, "db_1", installation_id=installation_id)
    now = database.now()
    with database.engine.begin() as connection:
        for place, installation_id in enumerate(ids):
            due = sa.update(installation).values(due_at=now - timedelta(seconds=9 - place))
            connection.execute(due.where(installation.c.installation_id == installation_id))
    assert [one.installation_id for one in claim(database)] == ids


@on_postgresql
def test_a_claim_takes_two_statements(database: Database, partner: Engine) -> None:
    """To lease, and to read the deliveries."""
    collect(database, partner, "db_1")
    statements: list[str] = []

    def note(_connection: Connection, _cursor: object, statement: str, *_rest: object) -> None:
        statements.append(statement)

    sa.event.listen(database.engine, "before_cursor_execute", note)
    leased = claim(database)
    sa.event.remove(database.engine, "before_cursor_execute", note)
    assert (len(statements), len(leased)) == (2, 1)


@pytest.mark.varies
@on_servers
def test_an_installation_that_another_session_has_locked_is_not_waited_for(database: Database, partner: Engine) -> None:
    for installation_id in ("icfg_1", "icfg_2"):
        collect(database, partner, "db_1", installation_id=installation_id)
    with database.engine.begin() as holding:
        locked = sa.select(installation).where(installation.c.installation_id == "icfg_1").with_for_update()
        holding.execute(locked).all()
        assert [one.installation_id for one in claim(database)] == ["icfg_2"]
    assert [one.installation_id for one in claim(database)] == ["icfg_1"]


def test_claims_at_the_same_time_lease_each_installation_once(database: Database, partner: Engine) -> None:
    with partner.begin() as connection:
        for number in range(40):
            write(connection, "db_1", installation_id=f"icfg_{number}")
    store.collect(database, 500)

    def claim_all(_number: int) -> list[str]:
        claimed = iter(lambda: claim(database, installations=3), ())
        return [one.installation_id for leased in claimed for one in leased]

    with ThreadPoolExecutor(4) as pool:
        claimed = [installation_id for ids in pool.map(claim_all, range(4)) for installation_id in ids]
    # A claim that finds every row locked ends although more are due.
    claimed += claim_all(0)
    assert (len(claimed), len(set(claimed))) == (40, 40)


@pytest.mark.varies
def test_a_claim_keeps_the_suspects_of_a_free_installation_and_sets_those_of_an_expired_lease(
    database: Database, partner: Engine
) -> None:
    for installation_id in ("icfg_1", "icfg_2"):
        collect(database, partner, "db_1", installation_id=installation_id)
    claim_one(database)
    expire_leases(database)
    with database.engine.begin() as connection:
        free = installation.c.lease_token.is_(None)
        connection.execute(sa.update(installation).where(free).values(suspects=3))
    assert {one.suspects for one in claim(database, suspects=7)} == {3, 7}
    with database.read() as connection:
        written = connection.execute(sa.select(installation.c.suspects).order_by(installation.c.suspects))
        assert written.scalars().all() == [3, 7]


@pytest.mark.varies
@pytest.mark.parametrize("plan", [None, "plan_1"])
def test_a_claim_reads_any_delivery_as_its_row_is(database: Database, partner: Engine, plan: str | None) -> None:
    collect(database, partner, "db_1")
    odd = {
        "resource_id": "\"'\\ \u00e9\u00a0\u2028\U0001f600 %s {}",
        "product_id": "\\",
        "billing_plan_id": plan,
        "events": 2**53 + 1,
        "last_event_id": 2**62 + 1,
        "first_created_at": datetime(2026, 1, 2, 3, 4, 5, 6, UTC),
        "attempts": 7,
        "gone": 2,
        "traceparent": "00-" + "0" * 32 + "-" + "0" * 16 + "-00",
    }
    with database.engine.begin() as connection:
        connection.execute(sa.update(delivery).values(odd))
    (leased,) = claim(database)
    with database.read() as connection:
        (expected,) = connection.execute(sa.select(*(delivery.c[name] for name in store.READ)))
    assert leased.deliveries == (store.Delivery.of(expected, database.now()),)
    assert [one.first_created_at.tzinfo for one in leased.deliveries] == [UTC]


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
