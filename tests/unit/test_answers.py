"""Answers in batches that the database accepts, and the retries of a batch that it refuses."""

from collections.abc import Sequence

import pytest

from dispatcher.outbox.events import Subject
from dispatcher.policy.decision import Action, DeadLetterReason, Decision
from dispatcher.policy.outcome import Outcome, OutcomeKind
from dispatcher.store import LONG_AGO, Answer, Delivery
from dispatcher.worker.answers import Answers

LIMIT = 3
MAX_CHARACTERS = 10
BURY = Decision(Action.BURY, DeadLetterReason.REJECTED)


def waiting(*errors: str | None) -> Answers:
    """Returns one waiting answer for each of these texts."""
    subject = Subject("icfg_1", "resource.updated", "db_1")
    delivery = Delivery("key", subject, None, None, 1, 1, 1, LONG_AGO, "version", 0, None)
    answers = Answers(MAX_CHARACTERS)
    for error in errors:
        answers.add(Answer(delivery, "token", Outcome(OutcomeKind.REJECTED, error=error), BURY))
    return answers


@pytest.mark.parametrize(
    ("errors", "batch"),
    [
        ((None,) * 4, LIMIT),
        (("four", "four", "four"), 2),
        (("six ch", "four", "four"), 2),
        (("six ch", "five ", None), 1),
        ((None, "six ch", "five "), 2),
        (("eleven char", None), 1),
        ((), 0),
    ],
)
def test_a_batch_has_neither_too_many_answers_nor_too_much_text_but_at_least_one_answer(
    errors: Sequence[str | None], batch: int
) -> None:
    assert len(waiting(*errors).batch(LIMIT)) == batch


def test_a_refused_batch_is_retried_without_texts_and_then_one_answer_at_a_time_until_the_culprit_is_given_up() -> None:
    refused = waiting("no", "nor", "never")
    assert refused.refuse(refused.batch(LIMIT)) is None
    first, *_ = everything = list(refused)
    assert [answer.outcome.error for answer in refused] == [None] * 3
    assert refused.batch(LIMIT) == everything
    assert refused.refuse(everything) is None
    assert refused.batch(LIMIT) == [first]
    assert refused.refuse([first]) is first
    assert refused.batch(LIMIT) == everything[1:]


def test_a_single_answer_too_is_retried_without_its_text_before_it_is_given_up() -> None:
    refused = waiting("no")
    assert refused.refuse(refused.batch(LIMIT)) is None
    (only,) = refused
    assert refused.refuse([only]) is only
    assert not refused


def test_once_everything_is_settled_the_next_refusal_counts_as_the_first() -> None:
    refused = waiting("never")
    refused.refuse(refused.batch(LIMIT))
    refused.remove(refused.batch(LIMIT))
    (only,) = waiting("no")
    refused.add(only)
    assert refused.refuse([only]) is None
    assert [answer.outcome.error for answer in refused] == [None]
    assert only.outcome.error == "no"  # it may not have been reported yet


def test_while_answers_wait_a_refusal_is_remembered() -> None:
    refused = waiting("never", "no")
    refused.refuse(refused.batch(LIMIT))
    refused.remove(refused.batch(1))
    assert refused.refuse(refused.batch(LIMIT)) is not None


def test_older_answers_are_put_back_first() -> None:
    later = waiting("later")
    later.put_first(waiting("first", "second"))
    assert [answer.outcome.error for answer in later] == ["first", "second", "later"]
