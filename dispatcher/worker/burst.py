"""A burst: events that come faster than they are collected. Whether it pays to collect all of them before any is sent."""

from dispatcher.store import Collected

JUDGED_BY = 10_000
"""The first events of a burst, by which the rest of it is judged."""


class Burst:
    """What was collected since the outbox was empty last.

    If its events share subjects, each request that waits for the rest of it saves others. If not, waiting saves nothing.
    """

    def __init__(self) -> None:
        self._events = 0
        self._subject_keys: set[str] = set()

    def add(self, collected: Collected) -> None:
        """One more collection."""
        if self._events < JUDGED_BY:
            self._events += collected.events
            self._subject_keys |= collected.subject_keys

    @property
    def saves_no_requests(self) -> bool:
        """Whether most of its events, as far as can be told, have a subject of their own."""
        return self._events >= JUDGED_BY and 2 * len(self._subject_keys) > self._events
