"""What an answer means for its delivery."""

from datetime import UTC, datetime, timedelta

import pytest

from dispatcher.outbox.events import Subject
from dispatcher.policy.decision import Action, DeadLetterReason, Decision, Outcome, OutcomeKind
from dispatcher.store import Answer, Delivery

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)
RETRY = Decision(Action.RETRY, delay=90.0)


def answer(decision: Decision, kind: OutcomeKind = OutcomeKind.FAILED) -> Answer:
    """To a delivery that has used up three attempts, one of them by a resource that was said to be gone."""
    subject = Subject("icfg_1", "resource.updated", "db_1")
    delivery = Delivery("key", subject, None, None, 1, 1, 1, NOW, "version", 3, None, gone=1)
    return Answer(delivery, "token", Outcome(kind, duration=2.0), decision, age=5.0)


@pytest.mark.parametrize(
    ("decision", "after"),
    [
        (RETRY, 4),
        (Decision(Action.RETRY, delay=90.0, spares_attempt=True), 3),
        (Decision(Action.BURY, DeadLetterReason.REJECTED), 4),
        (Decision(Action.DELIVERED), 3),
        (Decision(Action.THROTTLE, delay=90.0), 3),
        (Decision(Action.PAUSE, delay=90.0), 3),
        (Decision(Action.REFRESH), 3),
    ],
)
def test_only_a_retry_that_is_not_spared_and_a_burial_use_up_an_attempt(decision: Decision, after: int) -> None:
    assert answer(decision).attempts_after == after


@pytest.mark.parametrize("kind", list(OutcomeKind))
def test_only_an_answer_that_it_is_gone_counts_as_one(kind: OutcomeKind) -> None:
    assert answer(RETRY, kind).gone_after == (2 if kind is OutcomeKind.GONE else 1)


def test_a_request_began_before_its_answer_came_which_was_some_time_ago() -> None:
    assert answer(RETRY).began_at(NOW) == NOW - timedelta(seconds=5.0 + 2.0)


def test_only_a_retry_keeps_the_delivery_itself_waiting() -> None:
    assert answer(RETRY).due_after(NOW) == NOW + timedelta(seconds=90)
    assert answer(Decision(Action.THROTTLE, delay=90.0)).due_after(NOW) == NOW
