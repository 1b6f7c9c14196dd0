"""One event's journey through the store on every database: collect, claim, settle, and the guards that protect it."""

from datetime import timedelta

import pytest
import sqlalchemy as sa

from dispatcher import InstallationUpdated, ResourceUpdated, publish, store
from dispatcher.database.transactions import Database
from dispatcher.outbox.tables import attempt, dead_letter, delivery, installation, outbox
from dispatcher.policy.decision import Policy, decide
from dispatcher.policy.outcome import Outcome, OutcomeKind

pytestmark = pytest.mark.varies

LEASE = timedelta(seconds=60)


def commit(database: Database, *events: ResourceUpdated | InstallationUpdated) -> None:
    with database.engine.begin() as connection:
        publish(connection, *events)


def claim(database: Database) -> store.Claimed:
    return store.claim(database, installations=9, deliveries=90, lease=LEASE, leased_by="test", suspects=0)


def answer(one: store.Delivery, token: str, kind: OutcomeKind) -> store.Answer:
    outcome = Outcome(kind)
    decision = decide(
        outcome,
        attempts=0,
        gone=0,
        failures=1,
        pause_reason=None,
        paused_for=None,
        outage=False,
        suspected=False,
        policy=Policy(),
        random=lambda: 0.5,
    )
    return store.Answer(one, token, outcome, decision)


def count(database: Database, table: sa.Table) -> int:
    with database.read() as connection:
        return int(connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one())


def renamed(resource_id: str) -> ResourceUpdated:
    return ResourceUpdated(installation_id="icfg_1", resource_id=resource_id)


def test_events_of_one_subject_become_one_delivery_which_a_success_removes(database: Database) -> None:
    commit(database, renamed("db_1"), renamed("db_1"), renamed("DB_1"), renamed("db_1 "))
    assert len(store.collect(database, 100).subject_keys) == 3
    (leased,) = claim(database).leased
    assert sorted(one.events for one in leased.deliveries) == [1, 1, 2]
    assert claim(database).leased == ()
    answers = [answer(one, leased.token, OutcomeKind.DELIVERED) for one in leased.deliveries]
    store.settle(database, answers, [store.InstallationState("icfg_1", leased.token, release=True)], LEASE)
    assert [count(database, table) for table in (outbox, delivery, attempt, dead_letter)] == [0, 0, 3, 0]


def test_a_change_that_is_collected_while_the_request_is_in_flight_stays_due(database: Database) -> None:
    commit(database, renamed("db_1"))
    store.collect(database, 100)
    (leased,) = claim(database).leased
    commit(database, renamed("db_1"))
    store.collect(database, 100)
    answers = [answer(one, leased.token, OutcomeKind.DELIVERED) for one in leased.deliveries]
    store.settle(database, answers, [store.InstallationState("icfg_1", leased.token, release=True)], LEASE)
    ((again,),) = [leased.deliveries for leased in claim(database).leased]
    assert again.events == 2


def test_a_stale_token_changes_nothing(database: Database) -> None:
    commit(database, renamed("db_1"))
    store.collect(database, 100)
    (leased,) = claim(database).leased
    with database.engine.begin() as connection:
        long_ago = sa.literal(store.LONG_AGO, installation.c.leased_until.type)
        connection.execute(sa.update(installation).values(leased_until=long_ago))
    (taken_over,) = claim(database).leased
    answers = [answer(one, leased.token, OutcomeKind.DELIVERED) for one in leased.deliveries]
    settled = store.settle(database, answers, [store.InstallationState("icfg_1", leased.token, release=True)], LEASE)
    assert settled.lost == {"icfg_1"}
    assert count(database, delivery) == 1
    assert [one.attempts for one in taken_over.deliveries] == [0]


def test_a_rejected_delivery_is_a_dead_letter_until_a_later_success(database: Database) -> None:
    for kind in (OutcomeKind.REJECTED, OutcomeKind.DELIVERED):
        commit(database, InstallationUpdated(installation_id="icfg_1", billing_plan_id="pro"))
        store.collect(database, 100)
        (leased,) = claim(database).leased
        answers = [answer(one, leased.token, kind) for one in leased.deliveries]
        settled = store.settle(
            database, answers, [store.InstallationState("icfg_1", leased.token, release=True)], LEASE
        )
        assert (settled.buried, settled.superseded) == ((1, 0) if kind is OutcomeKind.REJECTED else (0, 1))
    assert store.repair(database) == 0
    assert store.prune(database, timedelta(0), timedelta(0)) == 3
