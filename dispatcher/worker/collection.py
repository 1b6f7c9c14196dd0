"""Collects events: one collection after another while the outbox is full.

While that saves requests, nothing else happens meanwhile. Otherwise it goes on beside the claims and settlements.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable
from datetime import timedelta

from dispatcher import store
from dispatcher.settings.settings import Settings
from dispatcher.store import Collected, Removal
from dispatcher.telemetry import EventsCollected, InstallationForgotten, Listener, MalformedBuried
from dispatcher.worker.answers import Answers
from dispatcher.worker.database_thread import DatabaseThread
from dispatcher.worker.leases import Leases
from dispatcher.worker.outbox_scan import OutboxScan
from dispatcher.worker.pace import Pace

MAX_COLLECT_SECONDS = 20.0
"""After this time, or a quarter of the lease if that is shorter, an endless burst is interrupted for a claim: leases must be renewed."""
MAX_WAITING_ANSWERS = 64
"""With this many answers waiting, a settlement interrupts the collection of a burst."""


class Burst:
    """The events collected since the outbox was last empty.

    If they share subjects, each request that waits for the rest of the burst saves others. If not, waiting saves nothing. The first
    `sample` events decide.
    """

    def __init__(self, sample: int) -> None:
        self._sample = sample
        self._events = 0
        self._subject_keys: set[str] = set()

    def add(self, collected: Collected) -> None:
        if self._events < self._sample:
            self._events += collected.events
            self._subject_keys |= collected.subject_keys

    @property
    def saves_no_requests(self) -> bool:
        """Whether most of the first events have different subjects."""
        return self._events >= self._sample and 2 * len(self._subject_keys) > self._events


class Collection:
    """Collects bursts in a thread of its own. `settle` writes the answers that arrive while claims and settlements wait for the burst;
    `clock` returns monotonic seconds.
    """

    def __init__(
        self,
        thread: DatabaseThread,
        scan: OutboxScan,
        leases: Leases,
        answers: Answers,
        settings: Settings,
        pace: Pace,
        report: Listener,
        clock: Callable[[], float],
        settle: Callable[[], Awaitable[None]],
    ) -> None:
        self._thread = thread
        self._scan = scan
        self._leases = leases
        self._answers = answers
        self._settings = settings
        self._pace = pace
        self._report = report
        self._clock = clock
        self._settle = settle
        self._burst = Burst(pace.burst_sample_events)
        self._stopping = False
        self._running: asyncio.Task[bool] | None = None
        self.found_at = -math.inf
        """Start of the last collection that found events."""

    def end_burst(self) -> None:
        """Records that the outbox is empty."""
        self._burst = Burst(self._pace.burst_sample_events)

    @property
    def is_running(self) -> bool:
        """Whether a collection has begun whose end `collect` has not returned."""
        return self._running is not None

    def stop(self) -> None:
        """Starts no further collection."""
        self._stopping = True

    async def finish(self) -> None:
        """Waits for the collection that is running. If it fails, its events stay in the outbox."""
        if self._running is not None:
            await asyncio.gather(self._running, return_exceptions=True)

    async def collect(self) -> bool:
        """Collects the waiting events. Returns whether more may be waiting.

        A burst is collected as a whole before it is sent, if that saves requests: otherwise its subjects would be sent once per collection.
        If it does not, this returns at once, and a later call returns or raises what came of it.
        """
        if self._running is None:
            self._running = asyncio.create_task(self._collect(is_awaited=not self._goes_on_beside))
        if self._goes_on_beside and not self._running.done():
            return True
        try:
            return await self._running
        finally:
            self._running = None

    @property
    def _goes_on_beside(self) -> bool:
        return self._burst.saves_no_requests and self._thread.database.dialect.writes_in_parallel

    async def _collect(self, *, is_awaited: bool) -> bool:
        until = self._clock() + min(MAX_COLLECT_SECONDS, self._settings.lease / 4)
        while not self._stopping:
            began = self._clock()
            collected = await self._collect_once(began)
            for removal in collected.removals:
                await self._remove(removal, until)
            if collected.skipped:
                return False
            if not collected.full:
                self.end_burst()
                return False
            self._burst.add(collected)
            if (is_awaited and self._burst.saves_no_requests) or began >= until:
                break
            if is_awaited and len(self._answers) >= MAX_WAITING_ANSWERS:
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
            self._report(EventsCollected(collected.events, len(collected.malformed)))
            for row in collected.malformed:
                ids = row.values["installation_id"], row.values["resource_id"]
                self._report(MalformedBuried(row.event_id, *ids, row.why))
        return collected

    async def _remove(self, removal: Removal, until: float) -> None:
        """Purges what was written before the installation was removed. If there is no time for all of it, a later sweep goes on with it."""
        purged = resolved = 0
        while not self._stopping:
            removed = await self._thread.run(store.remove, removal)
            purged, resolved = purged + removed.purged, resolved + removed.resolved
            if removed.events:
                self._report(EventsCollected(removed.events, 0))
            if removed.forgotten:
                self._leases.drop(removal.installation_id)
            if removed.done:
                self._report(InstallationForgotten(removal.installation_id, purged, resolved))
            if removed.done or removed.locked or self._clock() >= until:
                return
