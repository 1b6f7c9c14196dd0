"""The breaker for the host: while Vercel as a whole does not answer, it allows one probe at a time; after that, a growing rate. Pure.

Each dispatcher has its own breaker, in memory, and notices within a few requests that the host is down. A fault uses up an attempt only
if the host has shown life since the previous fault: otherwise a delivery that always fails cannot be distinguished from an outage. So an
outage never ends in dead letters, regardless of how few subjects wait, how many dispatchers try them, and how long it lasts.
"""

import math
from collections.abc import Callable
from enum import StrEnum

from dispatcher.policy.decision import Policy, probe_gap
from dispatcher.policy.outcome import Outcome, is_fault, shows_life

FAULTS_TO_OPEN = 10
"""Consecutive faults that open the breaker."""
FAULTS_TO_REOPEN = 3
"""Consecutive faults that open it again during the ramp."""
SUBJECTS_TO_OPEN = 3
"""Different subjects among these faults: a single subject may itself be the cause.

Not required if the connection failed: that cannot be caused by a subject. The breaker then opens before any delivery can have used up
its attempts.
"""
MIN_RAMP_RATE = 10.0
"""Requests per second at the start of the ramp, at least."""
CATCH_UP_FACTOR = 3.0
"""After a very short outage the ramp starts at this multiple of the rate before it, so that the waiting deliveries go out soon."""
RATE_HALVING_SECONDS = 4.0
"""Each time an outage lasts this many seconds longer, the ramp starts at half the rate."""
RATE_DOUBLING_SECONDS = 2.0
"""The rate doubles in this time."""
RAMP_SECONDS = 20.0
"""After this time the rate is no longer limited."""
BURST_SECONDS = 0.1
"""Requests that the ramp allowed within this time and that were not sent may still be sent: ticks are milliseconds apart at best."""


class State(StrEnum):
    """Which requests the breaker allows."""

    CLOSED = "closed"  # all
    OPEN = "open"  # one probe at a time
    RAMP = "ramp"  # a growing rate


class Breaker:
    """Times are monotonic seconds. `random()` returns a number in [0, 1)."""

    def __init__(self, policy: Policy, random: Callable[[], float]) -> None:
        self._policy = policy
        self._random = random
        self._state = State.CLOSED
        self._in_flight = 0
        self._faults = 0
        self._faulty: set[str] = set()
        self._gaps = 0
        self._next_at = self._opened_at = self._ramp_since = 0.0  # not used before the breaker has opened
        self._ramp_start = MIN_RAMP_RATE
        self._served = ServedRate()

    @property
    def is_suspected(self) -> bool:
        """Whether the host may have caused the last fault: it has shown no life since the fault before that."""
        return self.is_open or self._faults != 1

    @property
    def is_open(self) -> bool:
        """Whether an outage is going on."""
        return self._state is State.OPEN

    @property
    def is_calm(self) -> bool:
        """Whether it is closed and counts no fault, so that a success changes nothing but the rate of answers."""
        return self._state is State.CLOSED and not self._faults

    def wait(self, now: float) -> float:
        """Returns the seconds until a request may start; infinity while a probe is in flight."""
        if self._state is State.RAMP and now - self._ramp_since >= RAMP_SECONDS:
            self._state = State.CLOSED
        if self._state is State.CLOSED:
            return 0.0
        if self._state is State.OPEN and self._in_flight:
            return math.inf
        return max(0.0, self._next_at - now)

    def start(self, now: float) -> None:
        """Records that a request starts, after `wait` has returned 0. `end` must follow."""
        self._in_flight += 1
        if self._state is State.RAMP:
            self._next_at = max(self._next_at, now - BURST_SECONDS) + 1 / ramp_rate(
                now - self._ramp_since, self._ramp_start
            )

    def end(self, outcome: Outcome | None, subject_key: str, now: float) -> None:
        """Records the outcome of a request; None if it was not sent after all."""
        self._in_flight -= 1
        if outcome is None:
            return
        if is_fault(outcome.kind):
            self._count_fault(subject_key, now, connected=outcome.connected)
        elif shows_life(outcome.kind):
            self._see_life(now)

    def end_well(self, now: float) -> None:
        """Does what `end` does after a success if the breaker is calm."""
        self._in_flight -= 1
        self._served.count(now)

    def _count_fault(self, subject_key: str, now: float, *, connected: bool) -> None:
        if self._state is State.OPEN:
            if now >= self._next_at:  # a probe; requests that were in flight when the breaker opened end earlier
                self._postpone_probe(now)
            return
        self._faults += 1
        if len(self._faulty) < SUBJECTS_TO_OPEN:
            self._faulty.add(subject_key)
        limit = FAULTS_TO_REOPEN if self._state is State.RAMP else FAULTS_TO_OPEN
        if not connected:
            limit = min(limit, max(1, self._policy.max_attempts - 1))
        if self._faults >= limit and (not connected or len(self._faulty) == SUBJECTS_TO_OPEN):
            self._state, self._opened_at = State.OPEN, now
            self._postpone_probe(now)

    def _postpone_probe(self, now: float) -> None:
        self._gaps += 1
        self._next_at = now + probe_gap(self._gaps, self._policy, self._random)

    def _see_life(self, now: float) -> None:
        self._faults = self._gaps = 0
        self._faulty.clear()
        if self._state is State.OPEN:
            self._state = State.RAMP
            self._ramp_since = self._next_at = now
            self._ramp_start = ramp_start(self._served.rate, now - self._opened_at)
        self._served.count(now)


class ServedRate:
    """Answers per second that showed life: the busier of the last two seconds in which there were any."""

    def __init__(self) -> None:
        self._second = -math.inf
        self._count = self._before = 0

    @property
    def rate(self) -> float:
        """The rate up to the last answer."""
        return float(max(self._count, self._before))

    def count(self, now: float) -> None:
        """Counts an answer."""
        if now - self._second >= 1.0:
            self._second, self._before, self._count = now, self._count, 0
        self._count += 1


def ramp_start(rate_before: float, outage: float) -> float:
    """Returns the requests per second at which the ramp starts: the longer the outage (seconds), the fewer."""
    return max(MIN_RAMP_RATE, CATCH_UP_FACTOR * rate_before * math.pow(2.0, -outage / RATE_HALVING_SECONDS))


def ramp_rate(seconds: float, start: float = MIN_RAMP_RATE) -> float:
    """Returns the requests per second that may start `seconds` after the start of the ramp."""
    return start * math.pow(2.0, seconds / RATE_DOUBLING_SECONDS)
