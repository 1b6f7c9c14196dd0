"""What an answer means for its delivery."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from dispatcher.outbox.events import Subject
from dispatcher.policy.decision import Action, DeadLetterReason, Decision
from dispatcher.policy.outcome import Outcome, OutcomeKind
from dispatcher.store import READ, Answer, Claimed, Collected, Delivery, InstallationState

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


@pytest.mark.parametrize(("after", "early"), [(timedelta(milliseconds=1), True), (timedelta(), False)])
def test_a_delivery_is_early_until_its_newest_event_is_visible(after: timedelta, early: bool) -> None:
    values = {
        "subject_key": "key",
        "installation_id": "icfg_1",
        "type": "resource.updated",
        "resource_id": "db_1",
        "first_created_at": NOW,
        "visible_at": NOW + after,
    }
    row: Any = tuple(values.get(name) for name in READ)
    delivery = Delivery.of(row, NOW)
    assert (delivery.early, delivery.subject.resource_id) == (early, "db_1")


def test_nothing_is_said_of_what_nobody_has_named() -> None:
    """A step that did nothing, a delivery without a settle delay, and a lease that is kept."""
    collected, claimed, state = Collected(), Claimed(NOW), InstallationState("icfg_1", "token")
    assert not any((answer(RETRY).delivery.early, collected.full, collected.skipped, claimed.full))
    assert not any((state.release, state.as_written))


def test_two_states_that_say_the_same_are_equal_whether_the_row_says_so_already_or_not() -> None:
    state = InstallationState("icfg_1", "token", failures=1)
    assert state == InstallationState("icfg_1", "token", failures=1, as_written=True)
    assert state != InstallationState("icfg_1", "token", failures=2)
