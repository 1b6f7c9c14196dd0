"""The pipeline. A tick collects, claims and settles; meanwhile the sender works through the claimed deliveries.

Only ticks touch the database: one short transaction after the other, in one thread; in a second one, collections that need not be waited
for. No transaction is open during a request.
"""

import asyncio
import contextlib
import math
import time
from collections.abc import Callable
from random import random

from dispatcher import store
from dispatcher.credentials.sources import Credentials
from dispatcher.database.transactions import Database
from dispatcher.settings.settings import Settings
from dispatcher.telemetry import Listener, Ticked
from dispatcher.vercel.client import Vercel
from dispatcher.worker.answers import Answers
from dispatcher.worker.collection import Collection
from dispatcher.worker.database_thread import DatabaseThread
from dispatcher.worker.leases import Leases
from dispatcher.worker.outbox_scan import OutboxScan
from dispatcher.worker.pace import STANDARD, Pace
from dispatcher.worker.sender import Sender
from dispatcher.worker.settlement import Settlement

LOOK_SECONDS = 10.0
"""The deadline of a look: one statement without a transaction, on which PostgreSQL imposes no limit of its own."""
BUSY_PAUSE_SECONDS = 0.003
"""The pause between two ticks while there is something to do …"""
SATURATED_PAUSE_SECONDS = 0.01
"""… and while the sender is saturated with plenty queued, so that it goes on by itself: a tick costs as much as several deliveries."""
ACTIVE_SECONDS = 1.0
"""Pauses stay short for this time after there was something to do."""


class Worker:
    """Delivers the events of one database, together with any number of other workers.

    `report` is called with each report. `clock` returns monotonic seconds, `random` a number in [0, 1). Nothing depends on this machine's
    wall clock.
    """

    def __init__(
        self,
        database: Database,
        vercel: Vercel,
        credentials: Credentials,
        settings: Settings,
        report: Listener,
        *,
        name: str,
        pace: Pace = STANDARD,
        clock: Callable[[], float] = time.monotonic,
        random: Callable[[], float] = random,
    ) -> None:
        self.name = name
        self._settings = settings
        self._pace = pace
        self._report = report
        self._clock = clock
        self._thread = DatabaseThread(database)
        self._collector = DatabaseThread(database) if database.dialect.writes_in_parallel else self._thread
        self._answers = Answers(pace.max_batch_characters)
        self._sender = Sender(vercel, credentials, settings, report, self._answers, clock, random)
        self._leases = Leases(self._thread, self._sender, settings, pace, report, name, clock)
        self._settlement = Settlement(self._thread, self._answers, self._leases, settings, pace, clock)
        self._outbox = OutboxScan(min(settings.poll_interval, pace.max_holding_pause_seconds), pace.sweep_seconds)
        self._collection = Collection(
            self._collector, self._outbox, self._leases, self._answers, settings, pace, report, clock, self._settle
        )
        self._settled_at = -math.inf
        self._pause = BUSY_PAUSE_SECONDS
        self._stopping = False
        self._ticking = asyncio.Lock()

    @property
    def in_flight(self) -> int:
        """Requests in flight under all leases."""
        return self._leases.in_flight

    @property
    def idle(self) -> bool:
        """Whether nothing is leased, nothing waits to be settled, and no collection is running."""
        return not self._leases and not self._answers and not self._collection.is_running

    @property
    def outage(self) -> bool:
        """Whether Vercel as a whole does not answer, so that only probes are sent."""
        return self._sender.outage

    async def tick(self) -> float:
        """Runs one round and returns the seconds to wait before the next; the time this round took is already deducted.

        Raises the database's errors.
        """
        began = self._clock()
        async with self._ticking:
            self._sender.ended.clear()
            more = False
            if self._sender.outage:
                self._leases.stop_idle()
            try:
                if not self._stopping:
                    more = await self._take_in()
                    await self._leases.pull()
                    self._sender.send()
            finally:  # also while another session keeps the outbox or an installation locked
                self._sender.report_answers()
                if self._settlement.is_due(saturated=self._sender.saturated):
                    await self._settle()  # last, so that new events do not wait for it
            self._report(Ticked(self.in_flight))
            return max(0.0, self._next_pause(more) - (self._clock() - began))

    async def tick_until_answer(self) -> float:
        """Runs a tick and, while requests are in flight, waits until one ends or the next tick is due. Returns the remaining pause."""
        pause = await self.tick()
        if pause <= SATURATED_PAUSE_SECONDS or not self._leases:
            return pause
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pause):
                await self._sender.ended.wait()
        return 0.0

    def sweep(self) -> None:
        """Makes the next tick look below the outbox's low-water mark too, for events that were committed late."""
        self._outbox.sweep()

    async def stop(self, grace: float) -> None:
        """Claims nothing more, waits up to `grace` seconds for requests in flight, settles their answers, and gives all leases back.

        `tick` may still be called meanwhile, so that answers are settled earlier.
        """
        self._stopping = True
        self._collection.stop()
        self._sender.begin_stop()
        async with self._ticking:
            self._leases.drop_queues()
        await self._collection.finish()
        await self._sender.finish(grace)
        async with self._ticking:
            self._sender.report_answers()
            await self._settlement.settle(release_all=True)

    def close(self) -> None:
        """Ends the database threads; a running step loses its connections."""
        self._thread.close()
        self._collector.close()

    async def _take_in(self) -> bool:
        """Collects and claims if there is anything to. Returns whether more may be waiting."""
        began = self._clock()
        marks = self._outbox.low_water(began), self._leases.due_low_water.at(began)
        work = await self._thread.run_within(LOOK_SECONDS, store.look, *marks)
        if not work.to_collect:
            self._outbox.found_nothing(began)
            self._collection.end_burst()
        to_collect = (work.to_collect and self._outbox.may_go_on(began)) or self._collection.is_running
        if not work.to_claim:
            self._leases.due_low_water.swept(began)
        more = to_collect and await self._collection.collect()
        if self._leases.any_expired:
            await self._settle()  # before the leases are taken over, perhaps by this worker itself
        may_claim = (work.to_claim or to_collect) and self._sender.wait() <= 0
        return (may_claim and await self._leases.claim()) or more

    async def _settle(self) -> None:
        began = self._clock()
        self._sender.report_answers()
        if await self._settlement.settle():
            self._settled_at = began

    def _next_pause(self, more: bool) -> float:
        """Returns the pause. It grows while there is nothing to do, even with requests in flight: the end of a request wakes the worker."""
        limit = self._settings.poll_interval
        if self._leases:
            limit = min(limit, self._pace.max_holding_pause_seconds)
        if self._sender.has_turns_left:
            limit = min(limit, max(self._sender.wait(), BUSY_PAUSE_SECONDS))
        active_until = max(self._collection.found_at, self._settled_at) + ACTIVE_SECONDS
        if more or self._answers or self._clock() < active_until:
            goes_on_by_itself = self._sender.saturated and self._leases.has_plenty()
            self._pause = SATURATED_PAUSE_SECONDS if goes_on_by_itself else BUSY_PAUSE_SECONDS
        else:
            self._pause = min(self._pause * 1.5, self._settings.poll_interval)
        return min(self._pause, limit)
