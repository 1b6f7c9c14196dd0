"""How the log of attempts is written and read."""

from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine

from dispatcher import store
from dispatcher.database.transactions import Database
from dispatcher.outbox.tables import attempt
from dispatcher.policy.decision import Action, DeadLetterReason, Decision, PauseReason
from dispatcher.policy.outcome import Outcome, OutcomeKind
from dispatcher.store.attempt_log import is_of_subject, latest_attempts
from tests.contract.steps import DELIVERED, ID, LEASE, claim, collect, settle, standing

NEXT = [
    (DELIVERED, None),
    (Decision(Action.BURY, DeadLetterReason.REJECTED), None),
    (Decision(Action.REFRESH), None),
    (Decision(Action.RETRY, delay=90.0), timedelta(seconds=90)),
    (Decision(Action.THROTTLE, delay=90.0), timedelta()),  # its installation waits
    (Decision(Action.PAUSE, PauseReason.UNAUTHORIZED, 90.0), timedelta()),
]


def logged(database: Database) -> sa.Row[Any]:
    """Returns the last row of the log."""
    with database.read() as connection:
        return connection.execute(sa.select(attempt).order_by(attempt.c.id.desc()).limit(1)).one()


@pytest.mark.varies
@pytest.mark.parametrize(("decision", "next_due"), NEXT, ids=[str(decision.action) for decision, _ in NEXT])
def test_a_row_holds_the_time_of_the_answer_its_duration_and_when_the_next_request_is_due(
    database: Database, partner: Engine, decision: Decision, next_due: timedelta | None
) -> None:
    collect(database, partner, "db_1")
    settle(database, *claim(database), decision=Decision(Action.RETRY, delay=-1))
    (leased,) = claim(database)
    still = standing(database)
    outcome = Outcome(OutcomeKind.FAILED, 503, "busy", "over capacity", duration=1.25, vercel_id="iad1::x")
    answers = [store.Answer(one, leased.token, outcome, decision, age=7.0) for one in leased.deliveries]
    store.settle(database=still, answers=answers, states=[store.InstallationState(ID, leased.token)], lease=LEASE)
    row = logged(database)
    assert (row.at, row.duration_ms, row.attempt) == (still.now() - timedelta(seconds=7), 1_250, 2)
    assert (row.outcome, row.status, row.error_code, row.error) == ("failed", 503, "busy", "over capacity")
    assert (row.vercel_id, row.decision, row.reason) == ("iad1::x", decision.action, decision.reason)
    assert row.next_due_at == (None if next_due is None else still.now() + next_due)


def test_the_newest_attempts_of_a_subject_are_only_its_own(database: Database, partner: Engine) -> None:
    for number in range(3):
        for installation_id, resource in ((ID, "db_1"), (ID, "db_2"), ("icfg_2", "db_1")):
            collect(database, partner, resource, installation_id=installation_id)
        schema = f"{database.schema}." if database.schema else ""
        with partner.begin() as connection:
            connection.exec_driver_sql(
                f"INSERT INTO {schema}vercel_outbox (installation_id, type) VALUES ('{ID}', 'installation.updated')"
            )
        store.collect(database, 500)
        leased = claim(database)
        assert sum(len(lease.deliveries) for lease in leased) == 4, number
        settle(database, *leased)
    subjects = {one.subject for lease in leased for one in lease.deliveries}
    assert len(subjects) == 4
    with database.read() as connection:
        for subject in subjects:
            conditions = is_of_subject(subject.key, subject.installation_id, subject.resource_id)
            attempts = latest_attempts(connection, 2, *conditions)
            assert {(one.installation_id, one.resource_id, one.type) for one in attempts} == {
                (subject.installation_id, subject.resource_id, subject.type)
            }
            assert [one.first_event_id for one in attempts] == sorted(one.first_event_id for one in attempts)
            assert len({one.id for one in attempts}) == 2
