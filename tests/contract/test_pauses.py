"""A pause in the installation's row: which answers begin and end it, and when its time starts."""

from collections.abc import Sequence
from datetime import timedelta

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine

from dispatcher import store
from dispatcher.database.transactions import Database
from dispatcher.outbox.tables import installation
from dispatcher.policy.decision import Action, DeadLetterReason, Decision, PauseReason
from dispatcher.policy.outcome import Outcome, OutcomeKind
from tests.contract.steps import ID, LEASE, claim, collect

PAUSE = Decision(Action.PAUSE, PauseReason.UNAUTHORIZED, 90.0)
DISABLED = Decision(Action.PAUSE, PauseReason.DISABLED, 90.0)
DELIVERED = Decision(Action.DELIVERED)
RETRY = Decision(Action.RETRY, delay=5.0)
REFRESH = Decision(Action.REFRESH)
BURY = Decision(Action.BURY, DeadLetterReason.REJECTED)


def settle(database: Database, leased: store.Leased, decisions: Sequence[Decision]) -> None:
    """Settles one decision for each of the lease's deliveries, in this order."""
    answers = [
        store.Answer(one, leased.token, Outcome(OutcomeKind.FAILED), decision)
        for one, decision in zip(leased.deliveries, decisions, strict=True)
    ]
    store.settle(database, answers, [store.InstallationState(ID, leased.token, release=True)], LEASE)


def pause(database: Database) -> tuple[str | None, bool]:
    """Returns the reason of the pause, and whether the installation is due only when the pause ends."""
    with database.read() as connection:
        row = connection.execute(sa.select(installation)).one()
        return row.pause_reason, row.paused_until is not None and row.due_at == row.paused_until


@pytest.mark.parametrize(
    ("after", "paused"),
    [([RETRY], True), ([REFRESH], True), ([BURY], True), ([DELIVERED], False), ([DELIVERED, PAUSE], True)],
    ids=["retry", "refresh", "burial", "delivery", "delivery and pause"],
)
def test_only_a_delivery_ends_a_pause_that_began_earlier_in_the_same_settlement(
    database: Database, partner: Engine, after: list[Decision], paused: bool
) -> None:
    collect(database, partner, *(f"db_{number}" for number in range(1 + len(after))))
    (leased,) = claim(database)
    settle(database, leased, [PAUSE, *after])
    assert pause(database) == (("unauthorized", True) if paused else (None, False))


@pytest.mark.parametrize(("decision", "goes_on"), [(PAUSE, False), (DISABLED, True)], ids=["another", "the same"])
def test_the_time_of_a_pause_starts_again_only_if_its_reason_changes(
    database: Database, partner: Engine, decision: Decision, goes_on: bool
) -> None:
    collect(database, partner, "db_1")
    long_ago = database.now() - timedelta(days=10)
    with database.engine.begin() as connection:
        connection.execute(
            sa.update(installation).values(pause_reason="disabled", paused_since=long_ago, paused_until=long_ago)
        )
    (leased,) = claim(database)
    assert (leased.pause_reason, leased.paused_for and leased.paused_for.days) == ("disabled", 10)
    settle(database, leased, [decision])
    with database.read() as connection:
        since = connection.execute(sa.select(installation.c.paused_since)).scalar_one()
    assert (since == long_ago) is goes_on
    assert pause(database) == (decision.reason, True)
