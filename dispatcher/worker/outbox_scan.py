"""Where in the outbox the next collection begins, and when."""

from math import inf

from dispatcher import store
from dispatcher.store import Collected
from dispatcher.worker.low_water import Floor


class OutboxScan:
    """Follows the collections from the outbox's floor to its end. Times are monotonic.

    Events whose installation somebody keeps locked are left where they are. The scan goes on beyond them. Once it has left everything
    that it found, the next one begins `retry` seconds later.
    """

    def __init__(self, retry: float) -> None:
        self._retry = retry
        self._floor = Floor(store.LOWEST_ID)
        self._begin()
        self._began = 0.0
        self._not_before = -inf

    def _begin(self) -> None:
        self._beyond: int | None = None
        self._left = self._moved = 0

    def floor(self, now: float) -> int:
        """Above which a look at this moment finds events."""
        return self._floor.at(now)

    def may_go_on(self, now: float) -> bool:
        """Whether a collection may begin at this moment."""
        return now >= self._not_before

    def next(self, now: float) -> int:
        """Above which a collection at this moment begins."""
        if self._beyond is not None:
            return self._beyond
        self._began = now
        return self._floor.at(now)

    def note(self, began: float, collected: Collected) -> None:
        """What the collection that began then has found."""
        if collected.skipped:
            return
        if collected.last_event_id:
            self._floor.passed(began, collected.last_event_id)
        self._left += collected.left
        self._moved += collected.events
        if not collected.full:
            self._end(began)
        elif self._left:
            self._beyond = collected.last_event_id

    def _end(self, began: float) -> None:
        self._floor.swept(self._began)
        if self._left and not self._moved:
            self._not_before = began + self._retry
        self._begin()

    def sweep(self) -> None:
        """Has the next look and collection begin at the very bottom."""
        self._floor.sweep()

    def found_nothing(self, began: float) -> None:
        """A look that began then saw no event."""
        self._floor.swept(began)
        self._begin()
