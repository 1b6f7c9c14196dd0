"""Decides where in the outbox the next collection begins, and when."""

from math import inf

from dispatcher import store
from dispatcher.store import Collected
from dispatcher.worker.low_water import LowWaterMark

OTHERS_COLLECT_SECONDS = 0.02
"""While another dispatcher collects, the outbox is left to it for this time: an attempt costs three round trips and finds it locked."""
CONTENDED_SECONDS = 0.1
"""After a conflict it is left alone for this time: on Galera, whoever commits first wins, and frequent collections would make the longer
settlements of the same installations lose again and again."""


class OutboxScan:
    """Follows the collections from the outbox's low-water mark to its end. Times are monotonic seconds.

    Events of an installation whose row is locked are left in the outbox, and the scan continues beyond them. If a whole scan could move
    nothing, the next one begins `retry` seconds later; if another dispatcher is collecting, or a conflict made one repeat its transaction,
    `OTHERS_COLLECT_SECONDS` or `CONTENDED_SECONDS` later.
    """

    def __init__(self, retry: float, sweep_seconds: float) -> None:
        self._retry = retry
        self._low_water = LowWaterMark(store.LOWEST_ID, sweep_seconds)
        self._begin()
        self._began = 0.0
        self._not_before = -inf

    def _begin(self) -> None:
        self._beyond: int | None = None
        self._left = self._moved = 0

    def low_water(self, now: float) -> int:
        """Returns the id above which a look finds events now."""
        return self._low_water.at(now)

    def may_go_on(self, now: float) -> bool:
        """Whether a collection may begin now."""
        return now >= self._not_before

    def next(self, now: float) -> int:
        """Returns the id above which a collection that begins now reads."""
        if self._beyond is not None:
            return self._beyond
        self._began = now
        return self._low_water.at(now)

    def note(self, began: float, collected: Collected) -> None:
        """Records the result of the collection that began at that time."""
        if collected.contended:
            self._not_before = began + CONTENDED_SECONDS
        if collected.skipped:
            self._not_before = began + OTHERS_COLLECT_SECONDS
            return
        if collected.last_event_id:
            self._low_water.passed(began, collected.last_event_id)
        self._left += collected.left
        self._moved += collected.events
        if not collected.full:
            self._end(began)
        elif self._left:
            self._beyond = collected.last_event_id

    def _end(self, began: float) -> None:
        self._low_water.swept(self._began)
        if self._left and not self._moved:
            self._not_before = began + self._retry
        self._begin()

    def sweep(self) -> None:
        """Makes the next look and the next collection begin at the bottom."""
        self._low_water.sweep()

    def found_nothing(self, began: float) -> None:
        """Records that a look which began at that time saw no event."""
        self._low_water.swept(began)
        self._begin()
