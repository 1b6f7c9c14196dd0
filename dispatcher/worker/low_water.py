"""Low-water floors: where an index scan may begin, so that it need not step over what is long done.

While some transaction pins vacuum, a queue's dead rows stay in its index, and each scan from the beginning steps over all of them.
"""

from collections import deque
from typing import Any, Generic, Protocol, TypeVar


class Ordered(Protocol):
    """What can be compared."""

    def __lt__(self, other: Any, /) -> bool:
        """Whether it comes before."""
        ...


Position = TypeVar("Position", bound=Ordered)
LAG = 2.0
SWEEP_EVERY = 5.0


class Floor(Generic[Position]):
    """Follows the head of a queue, `LAG` seconds behind it; every `SWEEP_EVERY` seconds a scan begins at the very bottom.

    What comes in below the floor, such as an id whose transaction committed late, is found by that sweep. Times are monotonic.
    """

    def __init__(self, bottom: Position) -> None:
        self._bottom = bottom
        self._floor = bottom
        self._passed: deque[tuple[float, Position]] = deque()
        self._sweep_at = 0.0

    def at(self, now: float) -> Position:
        """Where a scan at this moment begins."""
        return self._bottom if now >= self._sweep_at else self._floor

    def sweep(self) -> None:
        """Has the next scan begin at the very bottom."""
        self._sweep_at = 0.0

    def swept(self, began: float) -> None:
        """A scan that began then, and found its end, began where `at` said."""
        if began >= self._sweep_at:
            self._sweep_at = began + SWEEP_EVERY

    def passed(self, now: float, position: Position) -> None:
        """Everything up to this position is done, as far as it could be seen at this moment."""
        if self._passed and position < self._passed[-1][1]:  # the database's clock stepped back, or its ids began anew
            self._passed.clear()
            self._floor = self._bottom
        self._passed.append((now, position))
        while self._passed[0][0] <= now - LAG:  # never the newest
            self._floor = self._passed.popleft()[1]
