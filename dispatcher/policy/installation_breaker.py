"""The breaker of one installation: after consecutive faults its requests are probes, after a recovery they grow in number."""

from collections.abc import Callable
from dataclasses import dataclass

from dispatcher.policy.decision import Policy, probe_gap
from dispatcher.policy.outcome import OutcomeKind, is_fault, is_served, shows_life

BREAKER_FAULTS = 5
"""Consecutive faults that open an installation's breaker."""
FULL_SPEED = 64
"""Requests in flight from which on a recovering installation needs no limit of its own."""


@dataclass(slots=True)
class InstallationBreaker:
    """What the installation's latest requests came to."""

    failures: int = 0
    """Consecutive requests that did not succeed, for any reason."""
    faults: int = 0
    """Consecutive faults of the destination."""
    limit: int | None = None
    """Requests in flight at most, while the installation recovers."""

    @property
    def is_open(self) -> bool:
        """Whether the destination has failed the installation several times in a row."""
        return self.faults >= BREAKER_FAULTS

    def allows(self, in_flight: int) -> bool:
        """Whether one more request may be in flight."""
        return self.limit is None or in_flight < self.limit

    def hear(self, kind: OutcomeKind, *, news: bool) -> None:
        """Counts a request. Unless it is news, its failure was to be expected and counts as none."""
        if is_fault(kind):
            self.faults += news
        elif shows_life(kind):
            self.faults = 0
        self.failures = 0 if is_served(kind) else self.failures + news

    def recover(self) -> None:
        """Each success lets twice as many requests in flight, no thundering herd."""
        if self.limit is not None:
            self.limit = 2 * self.limit if self.limit < FULL_SPEED else None

    def probe_gap(self, policy: Policy, random: Callable[[], float]) -> float:
        """Seconds until the next probe."""
        return probe_gap(max(1, self.faults - BREAKER_FAULTS + 1), policy, random)
