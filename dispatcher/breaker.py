"""The breaker for the host: while Vercel as a whole does not answer, one probe at a time; then a ramp. Pure.

It lives in memory, one in each dispatcher: that the host is down is seen by each of them within a few requests. An outage uses up no
attempts while it is open, so it never ends in dead letters.
"""

import math
from collections.abc import Callable
from enum import StrEnum

from dispatcher.policy import Outcome, Policy, is_fault, probe_gap, shows_life

FAULTS = 10
"""Faults in a row that open it."""
FAULTS_ON_RAMP = 3
"""… and as long as the ramp lasts."""
SUBJECTS = 3
"""Different subjects that must have met a fault, unless there was not even a connection: a single one may itself be the cause.

Without a connection it cannot be, and the breaker opens before the first delivery could have used up its attempts.
"""
RAMP_START = 10.0
"""Requests a second after the first success."""
RAMP_DOUBLES = 2.0
"""Seconds in which the rate doubles."""
RAMP_SECONDS = 20.0
BURST_SECONDS = 0.1
"""Ticks come every few milliseconds at best: what the ramp allowed in so many seconds before may be caught up on."""


class State(StrEnum):
    """Closed: everything may be sent. Open: one probe at a time. Ramp: at a growing rate."""

    CLOSED = "closed"
    OPEN = "open"
    RAMP = "ramp"


class Breaker:
    """Times are monotonic seconds. `random()` is in [0, 1)."""

    def __init__(self, policy: Policy, random: Callable[[], float]) -> None:
        self._policy = policy
        self._random = random
        self._state = State.CLOSED
        self._in_flight = 0
        self._faults = 0
        self._faulty: set[str] = set()
        self._gaps = 0
        self._next_at = -math.inf
        self._ramp_since = -math.inf

    @property
    def is_open(self) -> bool:
        """Whether an outage is going on."""
        return self._state is State.OPEN

    def wait(self, now: float) -> float:
        """Seconds until a request may start; infinite while a probe is under way."""
        if self._state is State.RAMP and now - self._ramp_since >= RAMP_SECONDS:
            self._state = State.CLOSED
        if self._state is State.CLOSED:
            return 0.0
        if self._state is State.OPEN and self._in_flight:
            return math.inf
        return max(0.0, self._next_at - now)

    def start(self, now: float) -> None:
        """A request starts, for which `wait` gave 0; `end` must follow."""
        self._in_flight += 1
        if self._state is State.RAMP:
            self._next_at = max(self._next_at, now - BURST_SECONDS) + 1 / ramp_rate(now - self._ramp_since)

    def end(self, outcome: Outcome | None, subject_key: str, now: float) -> None:
        """It came to this; None: it was not sent after all."""
        self._in_flight -= 1
        if outcome is None:
            return
        if is_fault(outcome.kind):
            self._count_fault(subject_key, now, connected=outcome.connected)
        elif shows_life(outcome.kind):
            self._see_life(now)

    def _count_fault(self, subject_key: str, now: float, *, connected: bool) -> None:
        if self._state is State.OPEN:
            if now >= self._next_at:  # the probe's; what was in flight when it opened comes in before
                self._put_off_probe(now)
            return
        self._faults += 1
        if len(self._faulty) < SUBJECTS:
            self._faulty.add(subject_key)
        enough = FAULTS_ON_RAMP if self._state is State.RAMP else FAULTS
        if not connected:
            enough = min(enough, max(1, self._policy.max_attempts - 1))
        if self._faults >= enough and (not connected or len(self._faulty) == SUBJECTS):
            self._state = State.OPEN
            self._put_off_probe(now)

    def _put_off_probe(self, now: float) -> None:
        self._gaps += 1
        self._next_at = now + probe_gap(self._gaps, self._policy, self._random)

    def _see_life(self, now: float) -> None:
        self._faults = self._gaps = 0
        self._faulty.clear()
        if self._state is State.OPEN:
            self._state = State.RAMP
            self._ramp_since = self._next_at = now


def ramp_rate(seconds: float) -> float:
    """Requests a second that may start so many seconds after the breaker closed."""
    return RAMP_START * math.pow(2.0, seconds / RAMP_DOUBLES)
