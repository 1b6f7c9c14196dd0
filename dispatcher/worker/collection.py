"""Collects events: one collection after the other while the outbox is full, as long as that saves requests."""

import math
from collections.abc import Awaitable, Callable
from datetime import timedelta

from dispatcher import store
from dispatcher.settings.settings import Settings
from dispatcher.store import Collected
from dispatcher.telemetry import EventsCollected, Listener
from dispatcher.worker.answers import Answers
from dispatcher.worker.database_thread import DatabaseThread
from dispatcher.worker.leases import Leases
from dispatcher.worker.outbox_scan import OutboxScan

BURST_SAMPLE_EVENTS = 10_000
"""The first events of a burst, by which the rest of it is judged."""
MAX_COLLECT_SECONDS = 20.0
"""After this time, or a quarter of the lease if that is shorter, a collection that finds ever more gives way to a claim: the leases must
be renewed meanwhile."""
MAX_WAITING_ANSWERS = 64
"""Answers that wait for a settlement while there is more to collect."""


class Burst:
    """The events collected since the outbox was last empty.

    If they share subjects, each request that waits for the rest of the burst saves others. If not, waiting saves nothing.
    """

    def __init__(self) -> None:
        self._events = 0
        self._subject_keys: set[str] = set()

    def add(self, collected: Collected) -> None:
        """Adds a collection."""
        if self._events < BURST_SAMPLE_EVENTS:
            self._events += collected.events
            self._subject_keys |= collected.subject_keys

    @property
    def saves_no_requests(self) -> bool:
        """Whether most of the first events have a subject of their own."""
        return self._events >= BURST_SAMPLE_EVENTS and 2 * len(self._subject_keys) > self._events


class Collection:
    """`settle` writes the answers that come in meanwhile; `clock` returns monotonic seconds."""

    def __init__(
        self,
        thread: DatabaseThread,
        scan: OutboxScan,
        leases: Leases,
        answers: Answers,
        settings: Settings,
        report: Listener,
        clock: Callable[[], float],
        settle: Callable[[], Awaitable[None]],
    ) -> None:
        self._thread = thread
        self._scan = scan
        self._leases = leases
        self._answers = answers
        self._settings = settings
        self._report = report
        self._clock = clock
        self._settle = settle
        self._burst = Burst()
        self._stopping = False
        self.found_at = -math.inf
        """When the last collection began that found events."""

    def end_burst(self) -> None:
        """Notes that the outbox is empty."""
        self._burst = Burst()

    def stop(self) -> None:
        """Collects nothing more."""
        self._stopping = True

    async def collect(self) -> bool:
        """Returns whether more events may wait.

        A burst is collected as a whole before it is sent if that saves requests: its subjects would be announced once per collection.
        """
        until = self._clock() + min(MAX_COLLECT_SECONDS, self._settings.lease / 4)
        while not self._stopping:
            began = self._clock()
            collected = await self._collect_once(began)
            if collected.skipped:
                return False
            if not collected.full:
                self.end_burst()
                return False
            self._burst.add(collected)
            if self._burst.saves_no_requests or began >= until:
                break
            if len(self._answers) >= MAX_WAITING_ANSWERS:
                await self._settle()
        return True

    async def _collect_once(self, began: float) -> Collected:
        limit = self._thread.database.dialect.max_collected
        delay = timedelta(seconds=self._settings.settle_delay)
        collected = await self._thread.run(store.collect, limit, self._scan.next(began), delay)
        self._scan.note(began, collected)
        if collected.events:
            self.found_at = began
            self._leases.expect_more(collected.installation_ids)
            self._report(EventsCollected(collected.events, collected.malformed))
        return collected
