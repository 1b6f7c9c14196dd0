"""The breaker of one installation: after consecutive faults its requests are probes; once it recovers, their number grows again."""

from collections.abc import Callable
from dataclasses import dataclass

from dispatcher.policy.decision import Policy, probe_gap
from dispatcher.policy.outcome import OutcomeKind, is_fault, is_served, shows_life

BREAKER_FAULTS = 5
"""Consecutive faults that open an installation's breaker."""
FULL_SPEED_REQUESTS = 64
"""With this many requests in flight, a recovering installation no longer needs a limit of its own."""


@dataclass(slots=True)
class InstallationBreaker:
    """Counts the installation's latest failures and limits its requests accordingly."""

    failures: int = 0
    """Consecutive requests that did not succeed, for any reason."""
    faults: int = 0
    """Consecutive faults of the destination."""
    limit: int | None = None
    """The most requests in flight while the installation recovers; None: no limit."""

    @property
    def is_open(self) -> bool:
        """Whether the destination has failed several consecutive requests of the installation."""
        return self.faults >= BREAKER_FAULTS

    @property
    def is_calm(self) -> bool:
        """Whether nothing is counted and nothing is limited, so that a success changes nothing."""
        return not self.failures and not self.faults and self.limit is None

    def allows(self, in_flight: int) -> bool:
        """Whether one more request may be in flight."""
        return self.limit is None or in_flight < self.limit

    def record(self, kind: OutcomeKind, *, count_failures: bool) -> None:
        """Records the outcome of a request. Without `count_failures`, a failure was to be expected and is not counted."""
        if is_fault(kind):
            self.faults += count_failures
        elif shows_life(kind):
            self.faults = 0
        self.failures = 0 if is_served(kind) else self.failures + count_failures

    def recover(self) -> None:
        """Doubles the limit after a success, to avoid a thundering herd."""
        if self.limit is not None:
            self.limit = 2 * self.limit if self.limit < FULL_SPEED_REQUESTS else None

    def probe_gap(self, policy: Policy, random: Callable[[], float]) -> float:
        """Returns the seconds until the next probe."""
        return probe_gap(max(1, self.faults - BREAKER_FAULTS + 1), policy, random)
