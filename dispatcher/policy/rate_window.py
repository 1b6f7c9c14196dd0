"""The rate window: at most so many requests in any span of so many seconds. Pure: the clock is an argument."""

import json
from bisect import bisect_right
from collections import deque
from dataclasses import dataclass

ROUNDING = 2.0
"""Seconds by which a reset may lie beyond the window that it ends: it and the answer's date come in whole seconds."""


@dataclass(frozen=True, slots=True)
class RateLimit:
    """At most `requests` requests in any window of `seconds` seconds."""

    requests: int
    seconds: float

    def __str__(self) -> str:
        return f"{self.requests}/{self.seconds:.15g}s"


class RateWindow:
    """At most `requests` in any `seconds`, exactly, by one clock (epoch or monotonic seconds).

    A request holds its place from its start until `seconds` after its end, for it may arrive at any time between the two. An
    installation's times are kept in its row, and only the holder of the lease changes them, so the limit holds across replicas too.
    """

    def __init__(self, requests: int, seconds: float, stored: str | None = None) -> None:
        self.requests = requests
        self.seconds = seconds
        self._started: list[float] = []
        self._ended: deque[float] = deque(sorted(json.loads(stored)) if stored else ())

    def take(self, now: float) -> bool:
        """Whether a request may start now; if so, it counts."""
        if self.wait(now) > 0:
            return False
        self._started.append(now)
        return True

    def end(self, now: float, *, sent: bool = True) -> None:
        """A request that was to start has ended; one that was not sent after all gives its place back."""
        self._started.pop(0)  # as if it were the oldest: the number counts, and `correct` needs no more
        if sent:
            self._ended.append(now)

    def wait(self, now: float) -> float:
        """Seconds until the next request may start; while only requests in flight are in the way, as if they ended now."""
        self._forget(now)
        over = len(self._started) + len(self._ended) - self.requests
        if over < 0:
            return 0.0
        return (self._ended[over] if over < len(self._ended) else now) + self.seconds - now

    def correct(self, remaining: int, reset: float, now: float, began: float) -> None:
        """In the answer to a request that began then, the destination says that only so many more may come in the next `reset` seconds.

        It is taken to know nothing of the requests that began later. What it says never widens the window.
        """
        self._forget(now)
        unknown = self.requests - bisect_right(self._started, began) - len(self._ended) - remaining
        if unknown > 0 and 0 < reset <= self.seconds + ROUNDING:
            self._ended = deque(sorted([*self._ended, *[now + min(reset, self.seconds) - self.seconds] * unknown]))

    def stored(self, now: float, latest: float | None = None) -> str | None:
        """As it stands in the row; None when nothing in it matters any more. It may be as late as `latest` for what is in flight."""
        self._forget(now)
        in_flight = now if latest is None else latest
        recent = [*(round(at, 3) for at in self._ended), *[round(in_flight, 3)] * len(self._started)]
        return json.dumps(recent, separators=(",", ":")) if recent else None

    def _forget(self, now: float) -> None:
        while self._ended and self._ended[0] + self.seconds <= now:
            self._ended.popleft()
        latest = now + self.seconds + ROUNDING
        if self._ended and self._ended[-1] > latest:  # the clock was set back: they end as if they had ended now
            self._ended = deque(sorted(now if at > latest else at for at in self._ended))
