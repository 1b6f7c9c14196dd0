"""Low-water marks: index scans begin there instead of at the bottom, so that they need not step over rows that are long done.

While a long transaction holds back vacuum, a queue's dead rows stay in its index, and each scan from the bottom steps over all of them.
"""

from collections import deque
from typing import Any, Generic, Protocol, TypeVar


class Ordered(Protocol):
    """A type whose values can be compared."""

    def __lt__(self, other: Any, /) -> bool:
        """Whether this value comes before the other."""
        ...


Position = TypeVar("Position", bound=Ordered)
LAG_SECONDS = 2.0
"""The mark stays this far behind the head of its queue."""


class LowWaterMark(Generic[Position]):
    """Follows the head of a queue with a lag. Every `sweep_seconds` a scan begins at the bottom: a sweep.

    The sweep finds rows that appear below the mark, such as an id whose transaction committed late. Times are monotonic seconds.
    """

    def __init__(self, bottom: Position, sweep_seconds: float) -> None:
        self._bottom = bottom
        self._sweep_seconds = sweep_seconds
        self._mark = bottom
        self._passed: deque[tuple[float, Position]] = deque()
        self._sweep_at = 0.0

    def at(self, now: float) -> Position:
        """Returns the position at which a scan begins now: the mark, or the bottom if a sweep is due."""
        return self._bottom if now >= self._sweep_at else self._mark

    def sweep(self) -> None:
        """Makes the next scan begin at the bottom."""
        self._sweep_at = 0.0

    def swept(self, began: float) -> None:
        """Records that a scan which began at that time, at the position from `at`, has reached its end."""
        if began >= self._sweep_at:
            self._sweep_at = began + self._sweep_seconds

    def passed(self, now: float, position: Position) -> None:
        """Records that everything up to this position is done, as far as could be seen now."""
        if (
            self._passed and position < self._passed[-1][1]
        ):  # the database's clock was set back, or its ids started again
            self._passed.clear()
            self._mark = self._bottom
        self._passed.append((now, position))
        while self._passed[0][0] <= now - LAG_SECONDS:  # always keeps the newest
            self._mark = self._passed.popleft()[1]
