"""A retry storm: of many attempts in one window, at least half failed and are retried."""

from collections import Counter
from collections.abc import Sequence

from dispatcher.policy.decision import Action
from dispatcher.policy.outcome import OutcomeKind
from dispatcher.store import Answer

MIN_RETRIES = 50
"""Fewer retries in a window are no storm, whatever their share of the attempts."""
MIN_RETRY_SHARE = 0.5
_RETRIES = frozenset({Action.RETRY, Action.THROTTLE})


class RetryStorm:
    """Counts the attempts of one window, and remembers whether the previous one was a storm."""

    def __init__(self) -> None:
        self.raging = False
        self.attempts = 0
        self.retries: Counter[OutcomeKind] = Counter()
        """By outcome."""

    def count(self, answers: Sequence[Answer]) -> None:
        self.attempts += len(answers)
        self.retries.update(answer.outcome.kind for answer in answers if answer.decision.action in _RETRIES)

    def end(self) -> bool:
        """Whether a storm began or ended with this window."""
        retries = self.retries.total()
        raged, self.raging = self.raging, retries >= MIN_RETRIES and retries >= MIN_RETRY_SHARE * self.attempts
        return self.raging is not raged

    def clear(self) -> None:
        """Begins a new window."""
        self.attempts = 0
        self.retries.clear()
