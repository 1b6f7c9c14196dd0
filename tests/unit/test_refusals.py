"""Answers in the batches that the database takes, and what becomes of those that it refuses."""

from collections.abc import Sequence

import pytest

from dispatcher.outbox.events import Subject
from dispatcher.policy.decision import Action, DeadLetterReason, Decision
from dispatcher.policy.outcome import Outcome, OutcomeKind
from dispatcher.store import LONG_AGO, Answer, Delivery
from dispatcher.worker import refusals
from dispatcher.worker.refusals import Refusals

AT_ONCE = 3
BURY = Decision(Action.BURY, DeadLetterReason.REJECTED)


def answers(*errors: str | None) -> list[Answer]:
    """One with each of these texts."""
    subject = Subject("icfg_1", "resource.updated", "db_1")
    delivery = Delivery("key", subject, None, None, 1, 1, 1, LONG_AGO, "version", 0, None)
    return [Answer(delivery, "token", Outcome(OutcomeKind.REJECTED, error=error), BURY) for error in errors]


@pytest.mark.parametrize(
    ("errors", "batch"),
    [
        ((None,) * 4, AT_ONCE),
        (("four", "four", "four"), 2),  # ten characters at most
        (("six ch", "four", "four"), 2),
        (("six ch", "five ", None), 1),
        ((None, "six ch", "five "), 2),
        (("eleven char", None), 1),
        ((), 0),
    ],
)
def test_a_batch_is_neither_too_many_answers_nor_too_long_a_statement_but_never_empty(
    monkeypatch: pytest.MonkeyPatch, errors: Sequence[str | None], batch: int
) -> None:
    monkeypatch.setattr(refusals, "MAX_TEXT", 10)
    waiting = answers(*errors)
    assert Refusals().first(waiting, AT_ONCE) == waiting[:batch]


def test_what_is_refused_is_tried_without_its_texts_and_then_one_at_a_time_until_the_culprit_is_given_up() -> None:
    refused, waiting = Refusals(), answers("no", "nor", "never")
    assert refused.note(refused.first(waiting, AT_ONCE)) is None
    assert [answer.outcome.error for answer in waiting] == [None] * 3
    assert refused.first(waiting, AT_ONCE) == waiting
    assert refused.note(waiting) is None
    assert refused.first(waiting, AT_ONCE) == waiting[:1]
    assert refused.note(waiting[:1]) is waiting[0]
    assert refused.first(waiting[1:], AT_ONCE) == waiting[1:]


def test_a_single_answer_is_tried_without_its_text_too_before_it_is_given_up() -> None:
    refused, waiting = Refusals(), answers("no")
    assert refused.note(waiting) is None
    assert refused.note(waiting) is waiting[0]


def test_once_nothing_waits_that_was_refused_the_next_refusal_is_a_first_one() -> None:
    refused, waiting = Refusals(), answers("no")
    refused.note(answers("never"))
    refused.end()
    assert refused.note(waiting) is None
    assert waiting[0].outcome.error is None
