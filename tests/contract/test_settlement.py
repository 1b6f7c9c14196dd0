"""How a settlement applies an answer to the delivery, the installation and its lease."""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine

from dispatcher import store
from dispatcher.database.transactions import Database
from dispatcher.outbox.tables import attempt, dead_letter, delivery, installation
from dispatcher.policy.decision import Action, DeadLetterReason, Decision, PauseReason
from dispatcher.policy.outcome import Outcome, OutcomeKind
from tests.contract.databases import on_durable
from tests.contract.steps import DELIVERED, ID, LEASE, REJECTED, claim, collect, commits, count, standing

RETRY = Decision(Action.RETRY, delay=90.0)
PAUSE = Decision(Action.PAUSE, PauseReason.UNAUTHORIZED, 90.0)
THROTTLE = Decision(Action.THROTTLE, delay=90.0)
FAILED = Outcome(OutcomeKind.FAILED, 503, error="over capacity", duration=2.0)


def only(database: Database, table: sa.Table) -> sa.Row[Any]:
    with database.read() as connection:
        return connection.execute(sa.select(table)).one()


def lease_on(database: Database) -> store.Leased:
    """Claims the only installation."""
    (leased,) = claim(database)
    return leased


def settle(
    database: Database,
    leased: store.Leased,
    decision: Decision,
    outcome: Outcome = FAILED,
    *,
    age: float = 0.0,
    **state: Any,
) -> store.Settled:
    """Settles the same answer for each delivery; keeps the lease unless `state` releases it."""
    answers = [store.Answer(one, leased.token, outcome, decision, age) for one in leased.deliveries]
    states = [store.InstallationState(leased.installation_id, leased.token, **state)]
    return store.settle(database, answers, states, LEASE)


def test_a_lease_that_is_kept_is_renewed(database: Database, partner: Engine) -> None:
    collect(database, partner, "db_1", "db_2")
    (leased,) = claim(database)
    still = standing(database)
    settle(still, replace(leased, deliveries=leased.deliveries[:1]), DELIVERED)
    row = only(database, installation)
    assert (row.leased_until, row.lease_token) == (still.now() + LEASE, leased.token)
    assert (row.leased_by, claim(still)) == ("test", ())


def test_a_lease_that_is_given_back_leaves_no_trace(database: Database, partner: Engine) -> None:
    collect(database, partner, "db_1")
    (leased,) = claim(database)
    settle(database, leased, DELIVERED, release=True)
    row = only(database, installation)
    assert (row.lease_token, row.leased_until, row.leased_by, row.due_at) == (None, None, None, None)


@pytest.mark.varies
def test_a_retry_is_due_after_its_delay_and_keeps_the_last_answer(database: Database, partner: Engine) -> None:
    collect(database, partner, "db_1")
    (leased,) = claim(database)
    still = standing(database)
    settle(still, leased, RETRY, release=True)
    row, later = only(database, delivery), still.now() + timedelta(seconds=90)
    assert (row.due_at, row.attempts, row.last_status, row.last_error) == (later, 1, 503, "over capacity")
    assert only(database, installation).due_at == later


@pytest.mark.parametrize("decision", [PAUSE, THROTTLE])
def test_a_delivery_that_waits_with_its_installation_uses_up_no_attempt_and_has_no_delay_of_its_own(
    database: Database, partner: Engine, decision: Decision
) -> None:
    collect(database, partner, "db_1")
    (leased,) = claim(database)
    still = standing(database)
    settle(still, leased, decision, release=True, throttled_for=decision.delay)
    waiting = only(database, delivery)
    assert (waiting.due_at, waiting.attempts) == (still.now(), 0)
    assert only(database, installation).due_at == still.now() + timedelta(seconds=90)


def test_only_the_throttled_installation_waits_and_for_as_long_as_its_state_says(
    database: Database, partner: Engine
) -> None:
    for installation_id in (ID, "icfg_2"):
        collect(database, partner, "db_1", installation_id=installation_id)
    still = standing(database)
    for leased in claim(database):
        throttled_for = 90.0 if leased.installation_id == ID else 0.0
        settle(still, leased, THROTTLE, release=True, throttled_for=throttled_for)
    with database.read() as connection:
        columns = installation.c.throttled_until, installation.c.due_at
        rows = connection.execute(sa.select(*columns).order_by(installation.c.installation_id)).all()
    later = still.now() + timedelta(seconds=90)
    assert [tuple(row) for row in rows] == [(later, later), (None, still.now())]


@pytest.mark.parametrize("delivered", [True, False])
def test_only_a_delivery_sets_the_time_of_the_last_delivery(
    database: Database, partner: Engine, delivered: bool
) -> None:
    collect(database, partner, "db_1")
    (leased,) = claim(database)
    still = standing(database)
    with database.engine.begin() as connection:
        connection.execute(sa.update(installation).values(last_delivered_at=store.LONG_AGO))
    settle(still, leased, DELIVERED if delivered else RETRY)
    assert only(database, installation).last_delivered_at == (still.now() if delivered else store.LONG_AGO)


@pytest.mark.parametrize("decision", [DELIVERED, REJECTED], ids=["delivery", "burial"])
def test_a_delivery_changed_during_a_request_that_concluded_starts_over(
    database: Database, partner: Engine, decision: Decision
) -> None:
    collect(database, partner, "db_1")
    settle(database, lease_on(database), Decision(Action.RETRY, delay=-1), release=True)
    (leased,) = claim(database)
    collect(database, partner, "db_1")
    still = standing(database)
    settled = settle(still, leased, decision, age=5.0, release=True)
    left = only(database, delivery)
    assert settled.buried == count(database, dead_letter) == 0
    assert (left.attempts, left.gone, left.last_status, left.last_error) == (0, 0, None, None)
    assert left.first_created_at == still.now() - timedelta(seconds=5.0 + 2.0)  # when the request began
    assert left.due_at == left.visible_at
    assert [one.events for lease in claim(database) for one in lease.deliveries] == [2]


def test_a_burial_keeps_the_answer_and_counts_its_attempt(database: Database, partner: Engine) -> None:
    collect(database, partner, "db_1")
    still = standing(database)
    gone = Outcome(OutcomeKind.GONE, 410, error="no such resource")
    settled = settle(still, lease_on(database), Decision(Action.BURY, DeadLetterReason.GONE), gone, release=True)
    letter = only(database, dead_letter)
    assert (settled.buried, count(database, delivery)) == (1, 0)
    assert (letter.reason, letter.attempts, letter.died_at) == ("gone", 1, still.now())
    assert (letter.last_status, letter.last_error) == (410, "no such resource")


def test_a_delivery_supersedes_the_dead_letters_of_its_subject_and_reports_their_number(
    database: Database, partner: Engine
) -> None:
    for decision in (REJECTED, REJECTED, DELIVERED):
        collect(database, partner, "db_1")
        still = standing(database)
        settled = settle(still, lease_on(database), decision, release=True)
    assert settled.superseded == 2
    with database.read() as connection:
        columns = dead_letter.c.resolution, dead_letter.c.resolved_at
        assert [tuple(row) for row in connection.execute(sa.select(*columns))] == [("superseded", still.now())] * 2


@pytest.mark.parametrize("failures_only", [True, False])
def test_the_log_contains_successes_unless_it_is_for_failures_only(
    database: Database, partner: Engine, failures_only: bool
) -> None:
    collect(database, partner, "db_1", "db_2")
    (leased,) = claim(database)
    answers = [
        store.Answer(one, leased.token, FAILED, decision)
        for one, decision in zip(leased.deliveries, (DELIVERED, RETRY), strict=True)
    ]
    states = [store.InstallationState(ID, leased.token, release=True)]
    store.settle(database, answers, states, LEASE, failures_only=failures_only)
    with database.read() as connection:
        logged = connection.execute(sa.select(attempt.c.decision).order_by(attempt.c.id)).scalars().all()
    assert sorted(logged) == (["retry"] if failures_only else ["delivered", "retry"])


def test_a_lost_lease_is_distinguished_from_one_that_is_ours(database: Database, partner: Engine) -> None:
    for installation_id in (ID, "icfg_2"):
        collect(database, partner, "db_1", installation_id=installation_id)
    ours, lost = sorted(claim(database), key=lambda lease: lease.installation_id)
    states = [store.InstallationState(ID, ours.token), store.InstallationState("icfg_2", "another")]
    answers = [store.Answer(one, lease.token, FAILED, DELIVERED) for lease in (ours, lost) for one in lease.deliveries]
    assert store.settle(database, answers, states, LEASE) == store.Settled(lost=frozenset({"icfg_2"}))
    assert only(database, delivery).installation_id == "icfg_2"
    assert only(database, attempt).installation_id == ID


def test_a_pause_lasts_as_long_as_decided(database: Database, partner: Engine) -> None:
    collect(database, partner, "db_1")
    still = standing(database)
    settle(still, lease_on(database), PAUSE, release=True)
    row = only(database, installation)
    assert (row.pause_reason, row.paused_since) == ("unauthorized", still.now())
    assert row.paused_until == row.due_at == still.now() + timedelta(seconds=90)


def test_a_kept_lease_keeps_its_place_in_the_queue(database: Database, partner: Engine) -> None:
    """Otherwise its row would move in the index with each settlement."""
    collect(database, partner, "db_1", "db_2")
    (leased,) = claim(database)
    due: datetime = only(database, installation).due_at
    settle(database, replace(leased, deliveries=leased.deliveries[:1]), DELIVERED)
    assert only(database, installation).due_at == due


def test_only_an_installations_own_deliveries_determine_when_it_is_due(database: Database, partner: Engine) -> None:
    for installation_id in (ID, "icfg_2"):
        collect(database, partner, "db_1", installation_id=installation_id)
    for leased in claim(database):
        settle(database, leased, RETRY if leased.installation_id == ID else DELIVERED, release=True)
    with database.read() as connection:
        due = connection.execute(sa.select(installation.c.due_at).order_by(installation.c.installation_id))
        assert [time is None for time in due.scalars()] == [False, True]


def test_a_row_with_the_same_values_is_not_written_from_the_moment_it_is_due(
    database: Database, partner: Engine
) -> None:
    still = standing(database)
    collect(still, partner, "db_1")
    (leased,) = claim(still)
    before = only(database, installation)
    assert before.due_at == still.now()
    settle(still, leased, DELIVERED, as_written=True)
    assert only(database, installation) == before


@pytest.mark.varies
@on_durable
def test_a_settlement_waits_for_the_disk(database: Database, partner: Engine) -> None:
    """Otherwise a crash could cause an answered request to be sent again."""
    collect(database, partner, "db_1")
    leased = lease_on(database)
    with commits(database) as waits:
        settle(database, leased, DELIVERED, release=True)
    assert waits == [True]
