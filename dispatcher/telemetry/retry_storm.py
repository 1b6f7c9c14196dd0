"""A retry storm: of many attempts in one window, most came to nothing and are made again."""

from collections import Counter

from dispatcher.policy.decision import Action, OutcomeKind
from dispatcher.telemetry.reports import Attempted

MIN_RETRIES = 50
"""Fewer retries than that in a window are no storm, whatever their share."""
MIN_SHARE = 0.5
_AGAIN = frozenset({Action.RETRY, Action.THROTTLE})


class RetryStorm:
    """Counts the attempts of one window, and knows whether the one before was a storm."""

    def __init__(self) -> None:
        self.raging = False
        self.attempts = 0
        self.retries: Counter[OutcomeKind] = Counter()
        """By what they came to."""

    def count(self, attempted: Attempted) -> None:
        """One more."""
        self.attempts += 1
        if attempted.decision.action in _AGAIN:
            self.retries[attempted.outcome.kind] += 1

    def end(self) -> bool:
        """Whether a storm began or ended with this window; then a new one begins."""
        retries = self.retries.total()
        raged, self.raging = self.raging, retries >= MIN_RETRIES and retries >= MIN_SHARE * self.attempts
        return self.raging is not raged

    def clear(self) -> None:
        """A new window begins."""
        self.attempts = 0
        self.retries.clear()
