"""Answers that a resource is gone are counted separately from the other attempts."""

import sqlalchemy as sa
from sqlalchemy import Engine

from dispatcher import store
from dispatcher.database.transactions import Database
from dispatcher.outbox.tables import delivery
from dispatcher.policy.decision import Action, Decision, PauseReason
from dispatcher.policy.outcome import Outcome, OutcomeKind
from tests.contract.steps import DELIVERED, ID, LEASE, claim, collect

RETRY = Decision(Action.RETRY)
PAUSE = Decision(Action.PAUSE, PauseReason.UNAUTHORIZED)


def counts(database: Database) -> tuple[int, int]:
    with database.read() as connection:
        row = connection.execute(sa.select(delivery.c.attempts, delivery.c.gone)).one()
    return row.attempts, row.gone


def test_each_gone_answer_counts_until_the_delivery_starts_over(database: Database, partner: Engine) -> None:
    collect(database, partner, "db_1")
    (leased,) = claim(database)
    seen = []
    for kind, decision in (
        (OutcomeKind.FAILED, RETRY),
        (OutcomeKind.GONE, RETRY),
        (OutcomeKind.UNAUTHORIZED, PAUSE),
        (OutcomeKind.FAILED, RETRY),
        (OutcomeKind.GONE, RETRY),
        (OutcomeKind.DELIVERED, DELIVERED),
    ):
        (one,) = store.pull(database, {ID: leased.token}, 9, LEASE).deliveries[ID]
        assert (one.attempts, one.gone) == counts(database)
        if decision is DELIVERED:
            collect(database, partner, "db_1")
        answer = store.Answer(one, leased.token, Outcome(kind), decision)
        store.settle(database, [answer], [store.InstallationState(ID, leased.token)], LEASE)
        seen.append(counts(database))
    assert seen == [(1, 0), (2, 1), (2, 1), (3, 1), (4, 2), (0, 0)]
