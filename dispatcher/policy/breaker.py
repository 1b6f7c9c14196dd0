"""The breaker for the host: while Vercel as a whole does not answer, one probe at a time; then a ramp. Pure.

It lives in memory, one in each dispatcher: that the host is down is seen by each of them within a few requests. A fault uses up an
attempt only if the host has shown life since the fault before it: without that, nothing tells a deadly delivery from an outage. So
an outage never ends in dead letters, however few subjects wait, however many dispatchers try them, and however long it takes.
"""

import math
from collections.abc import Callable
from enum import StrEnum

from dispatcher.policy.decision import Outcome, Policy, is_fault, probe_gap, shows_life

FAULTS = 10
"""Faults in a row that open it."""
FAULTS_ON_RAMP = 3
"""… and as long as the ramp lasts."""
SUBJECTS = 3
"""Different subjects that must have met a fault, unless there was not even a connection: a single one may itself be the cause.

Without a connection it cannot be, and the breaker opens before the first delivery could have used up its attempts.
"""
RAMP_START = 10.0
"""Requests a second after the first success, at least."""
CATCH_UP = 3.0
"""Times the rate before the outage at which the ramp starts after a very short one, so that what waited goes out soon …"""
RATE_HALVES = 4.0
"""… and the seconds of outage that halve it."""
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
        self._next_at = self._opened_at = self._ramp_since = 0.0  # not read before it has opened
        self._ramp_start = RAMP_START
        self._served = ServedRate()

    @property
    def is_suspected(self) -> bool:
        """Whether the last fault may be the host's, because the host has shown no life since the fault before it."""
        return self.is_open or self._faults != 1

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
            self._next_at = max(self._next_at, now - BURST_SECONDS) + 1 / ramp_rate(
                now - self._ramp_since, self._ramp_start
            )

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
            self._state, self._opened_at = State.OPEN, now
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
            self._ramp_start = ramp_start(self._served.rate, now - self._opened_at)
        self._served.count(now)


class ServedRate:
    """Answers a second that showed life: those of the busier one of the last two seconds in which there were any."""

    def __init__(self) -> None:
        self._second = -math.inf
        self._count = self._before = 0

    @property
    def rate(self) -> float:
        """The rate until the last answer."""
        return float(max(self._count, self._before))

    def count(self, now: float) -> None:
        """One more."""
        if now - self._second >= 1.0:
            self._second, self._before, self._count = now, self._count, 0
        self._count += 1


def ramp_start(rate_before: float, outage: float) -> float:
    """Requests a second with which the ramp starts: the fewer, the longer the outage lasted (seconds)."""
    return max(RAMP_START, CATCH_UP * rate_before * math.pow(2.0, -outage / RATE_HALVES))


def ramp_rate(seconds: float, start: float = RAMP_START) -> float:
    """Requests a second that may start so many seconds after the breaker closed."""
    return start * math.pow(2.0, seconds / RAMP_DOUBLES)
