"""The pipeline. A tick collects, claims, settles what was answered; senders work through what was claimed meanwhile.

The database is touched by ticks only, one short transaction after the other, in one thread. A request is sent outside of any.
"""

import asyncio
import contextlib
import random
import time
from collections.abc import Callable
from datetime import timedelta

from dispatcher import store
from dispatcher.credentials.sources import Credentials
from dispatcher.database.transactions import Database
from dispatcher.settings.settings import Settings
from dispatcher.telemetry import EventsCollected, Listener, Ticked
from dispatcher.vercel.client import Vercel
from dispatcher.worker.burst import Burst
from dispatcher.worker.database_thread import DatabaseThread
from dispatcher.worker.leases import Leases
from dispatcher.worker.outbox_scan import OutboxScan
from dispatcher.worker.sender import Sender

COLLECT_FOR = 20.0
"""Seconds after which a collection that finds ever more gives way to a claim, unless a quarter of a lease is shorter: what is held
must be renewed meanwhile."""
ANSWERS_WAIT = 64
"""Answers that wait for a settlement while there is more to collect."""
LOOK_SECONDS = 10.0
"""The deadline of a look, which on PostgreSQL has no limit of the server's: one statement without a transaction."""
BUSY_PAUSE = 0.003
ACTIVE_FOR = 1.0
"""Seconds for which ticks stay short after there was something to do."""
HOLDING_PAUSE = 0.2
"""The longest pause, in seconds, while leases are held, however long the polling interval is."""


class Worker:
    """Delivers what is due in one database, together with any number of others.

    `report` is told what happens. `clock` gives monotonic seconds; nothing depends on this machine's wall clock.
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
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._settings = settings
        self._report = report
        self._clock = clock
        self._thread = DatabaseThread(database)
        self._sender = Sender(vercel, credentials, settings, report, clock, chance)
        self._leases = Leases(self._thread, self._sender, settings, report, name, clock)
        self._outbox = OutboxScan(min(settings.poll_interval, HOLDING_PAUSE))
        self._burst = Burst()
        self._active_until = 0.0
        self._pause = BUSY_PAUSE
        self._stopping = False
        self._ticking = asyncio.Lock()

    @property
    def in_flight(self) -> int:
        """Requests under way."""
        return self._leases.in_flight

    @property
    def idle(self) -> bool:
        """Whether nothing is leased and nothing waits to be settled."""
        return not self._leases and not self._sender.answers

    @property
    def outage(self) -> bool:
        """Whether Vercel as a whole does not answer: nothing but probes is sent."""
        return self._sender.outage

    async def tick(self) -> float:
        """One round of the pipeline; returns in how many seconds the next is wanted, which is the sooner the longer this one took.

        Raises what the database raises.
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
            finally:  # also while somebody keeps the outbox or an installation locked
                if self._leases.settlement_is_due():
                    await self._settle()  # last, so that what was just committed does not wait for it
            self._report(Ticked(self.in_flight))
            return max(0.0, self._next_pause(more) - (self._clock() - began))

    async def tick_until_answer(self) -> float:
        """A tick; while requests are under way also the pause after it, which the end of a request cuts short."""
        pause = await self.tick()
        if pause <= BUSY_PAUSE or not self._leases:
            return pause
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pause):
                await self._sender.ended.wait()
        return 0.0

    def sweep(self) -> None:
        """Has the next tick look for events that were committed late, too, below the floor of the outbox."""
        self._outbox.sweep()

    async def stop(self, grace: float) -> None:
        """Claims nothing more, lets what is in flight finish for up to `grace` seconds, settles it, gives all leases back.

        Whoever calls `tick` may go on doing so meanwhile: the answers that come in are settled sooner.
        """
        self._stopping = True
        self._sender.begin_stop()
        async with self._ticking:
            self._leases.drop_queues()
        await self._sender.finish(grace)
        async with self._ticking:
            await self._leases.settle(release_all=True)

    def close(self) -> None:
        """Ends the thread that speaks to the database."""
        self._thread.close()

    async def _take_in(self) -> bool:
        """Collects and claims if there is anything; whether more may wait."""
        began = self._clock()
        floors = self._outbox.floor(began), self._leases.due_floor.at(began)
        work = await self._thread.run_within(LOOK_SECONDS, store.look, *floors)
        if not work.to_collect:
            self._outbox.found_nothing(began)
            self._burst = Burst()
        to_collect = work.to_collect and self._outbox.may_go_on(began)
        if not work.to_claim:
            self._leases.due_floor.swept(began)
        more = to_collect and await self._collect()
        if self._leases.any_expired:
            await self._settle()  # before they are taken over, by this worker itself perhaps
        may_claim = (work.to_claim or to_collect) and self._sender.wait() <= 0
        return (may_claim and await self._leases.claim()) or more

    async def _collect(self) -> bool:
        """Whether more may wait.

        A burst comes first as a whole if that saves requests: a subject would be announced once for each collection.
        """
        at_once = self._thread.database.dialect.max_collected
        delay = timedelta(seconds=self._settings.settle_delay)
        until = self._clock() + min(COLLECT_FOR, self._settings.lease / 4)
        while not self._stopping:
            began = self._clock()
            collected = await self._thread.run(store.collect, at_once, self._outbox.next(began), delay)
            self._outbox.note(began, collected)
            if collected.events:
                self._active_until = began + ACTIVE_FOR
                self._leases.expect_more(collected.installation_ids)
                self._report(EventsCollected(collected.events, collected.malformed))
            if collected.skipped:
                return False
            if not collected.full:
                self._burst = Burst()
                return False
            self._burst.add(collected)
            if self._burst.saves_no_requests or began >= until:
                break
            if len(self._sender.answers) >= ANSWERS_WAIT:
                await self._settle()
        return True

    async def _settle(self) -> None:
        began = self._clock()
        if await self._leases.settle():
            self._active_until = max(self._active_until, began + ACTIVE_FOR)

    def _next_pause(self, more: bool) -> float:
        """Grows while there is nothing to do, also beside requests under way: the end of one is no matter of the clock."""
        longest = self._settings.poll_interval
        if self._leases:
            longest = min(longest, HOLDING_PAUSE)
        if self._sender.has_turns_left:
            longest = min(longest, max(self._sender.wait(), BUSY_PAUSE))
        if more or self._sender.answers or self._clock() < self._active_until:
            self._pause = BUSY_PAUSE
        else:
            self._pause = min(self._pause * 1.5, self._settings.poll_interval)
        return min(self._pause, longest)
