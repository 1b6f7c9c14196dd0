"""Reports of answers, for the listeners' tests."""

from dispatcher.outbox.events import Subject
from dispatcher.policy.decision import Decision
from dispatcher.policy.outcome import Outcome
from dispatcher.store import LONG_AGO, Answer, Delivery


def answer(
    outcome: Outcome, decision: Decision, *, lag: float = 0.1, ids: tuple[str, str | None] = ("icfg_1", "db_1")
) -> Answer:
    """Returns the answer to the first attempt at a delivery of this installation and resource."""
    subject = Subject(ids[0], "resource.updated", ids[1])
    delivery = Delivery(subject.key, subject, None, None, 1, 1, 1, LONG_AGO, "version", 0, None)
    return Answer(delivery, "token", outcome, decision, lag=lag)
