"""The rate window: at most a given number of requests in any span of a given length. Pure: the clock is an argument."""

import math
from bisect import bisect_right
from collections import deque
from dataclasses import dataclass

import orjson

ROUNDING_SECONDS = 2.0
"""A reported reset may lie this far beyond the window: it and the answer's date are in whole seconds."""


@dataclass(frozen=True, slots=True)
class RateLimit:
    """At most `requests` requests in any window of `seconds` seconds."""

    requests: int
    seconds: float

    def __str__(self) -> str:
        return f"{self.requests}/{self.seconds:.15g}s"


def seconds_for(requests: int, limit: RateLimit | None) -> float:
    """Returns the seconds from the first of these requests to the last if each is sent as soon as the limit allows."""
    return 0.0 if limit is None else max(0, requests - 1) // limit.requests * limit.seconds


class RateWindow:
    """Allows at most `requests` in any span of `seconds`, exactly, by one clock (epoch or monotonic seconds).

    A request occupies a slot from its start until `seconds` after its end, because it may arrive at any time between the two. An
    installation's times are kept in its row, and only the holder of the lease changes them, so the limit holds across replicas too.
    """

    def __init__(self, requests: int, seconds: float, stored: str | None = None) -> None:
        self.requests = requests
        self.seconds = seconds
        self._started: list[float] = []
        self._ended: deque[float] = deque(sorted(orjson.loads(stored)) if stored else ())

    def take(self, now: float) -> bool:
        """Reserves a slot for a request that starts now; False if the window is full."""
        if self.used(now) >= self.requests:
            return False
        self._started.append(now)
        return True

    def end(self, now: float, *, sent: bool = True) -> None:
        """Records that a request has ended. If it was not `sent` after all, its slot is free again."""
        self._started.pop(0)  # whichever it was: only their number matters, and `correct` is accurate enough
        if sent:
            self._ended.append(_up_to_millisecond(now))

    def used(self, now: float) -> int:
        """Returns the number of occupied slots, those of requests in flight included."""
        self._forget(now)
        return len(self._started) + len(self._ended)

    def wait(self, now: float, requests: int = 1) -> float:
        """Returns the seconds until the last of the next `requests` requests may start, assuming that requests in flight end now and that
        each of the next ones starts and ends as soon as it may.
        """
        windows, place = divmod(requests - 1, self.requests)
        over = self.used(now) + place - self.requests
        if over < 0:
            return windows * self.seconds
        return (self._ended[over] if over < len(self._ended) else now) + (windows + 1) * self.seconds - now

    def correct(self, remaining: int, reset: float, now: float, began: float) -> None:
        """Applies the limit that an answer reports: `remaining` more requests within `reset` seconds.

        Requests that began after the answered one, at `began`, are assumed not to be counted in it. A report can only narrow the window.
        """
        self._forget(now)
        uncounted = self.requests - bisect_right(self._started, began) - len(self._ended) - remaining
        if uncounted > 0 and 0 < reset <= self.seconds + ROUNDING_SECONDS:
            since = _up_to_millisecond(now + min(reset, self.seconds) - self.seconds)
            self._ended = deque(sorted([*self._ended, *[since] * uncounted]))

    def stored(self, now: float, latest: float | None = None) -> str | None:
        """Returns the window as its row stores it; None if it is empty. Requests in flight are stored as if they ended at `latest`."""
        self._forget(now)
        in_flight = _up_to_millisecond(now if latest is None else latest)
        recent = [*self._ended, *[in_flight] * len(self._started)]
        return orjson.dumps(recent).decode() if recent else None

    def _forget(self, now: float) -> None:
        while self._ended and self._ended[0] + self.seconds <= now:
            self._ended.popleft()
        latest = now + self.seconds + ROUNDING_SECONDS
        if self._ended and self._ended[-1] > latest:  # the clock was set back: treat these times as now
            self._ended = deque(sorted(_up_to_millisecond(now) if at > latest else at for at in self._ended))


def _up_to_millisecond(time: float) -> float:
    """Returns the time as it is stored: to the millisecond, and rounded up, so that no slot is free too early."""
    return math.ceil(time * 1000) / 1000
