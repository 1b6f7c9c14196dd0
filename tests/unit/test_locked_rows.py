"""Answers of installations whose rows another session keeps locked."""

from datetime import UTC, datetime

from dispatcher.outbox.events import Subject
from dispatcher.policy.decision import Action, Decision
from dispatcher.policy.outcome import Outcome, OutcomeKind
from dispatcher.store import Answer, Delivery
from dispatcher.worker.locked_rows import RETRY_SECONDS, LockedRows


def answer(installation_id: str) -> Answer:
    subject = Subject(installation_id, "resource.updated", "db_1")
    delivery = Delivery("key", subject, None, None, 1, 1, 1, datetime.now(UTC), "version", 0, None)
    return Answer(delivery, "token", Outcome(OutcomeKind.DELIVERED), Decision(Action.DELIVERED))


def test_answers_wait_until_their_row_is_tried_again() -> None:
    rows, first, second = LockedRows(), answer("first"), answer("second")
    rows.note(["first"], 1.0)
    rows.note(["second"], 1.5)
    for one in (first, second):
        rows.keep(one)
    assert (rows.has("first", 1.5), rows.has("another", 1.5)) == (True, False)
    assert rows.take(1.5) == []
    assert rows.take(1.0 + RETRY_SECONDS) == [first]
    assert not rows.has("first", 1.0)  # forgotten
    rows.retry()
    assert rows.take(0.0) == [second]
    assert rows.take(9.0) == []
