"""The pipeline. A tick collects, claims, settles what was answered; senders work through what was claimed meanwhile.

The database is touched by ticks only, one short transaction after the other, in one thread. A request is sent outside of any.
"""

import asyncio
import random
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from typing import ParamSpec, TypeVar

from dispatcher import store
from dispatcher.credentials import Credentials
from dispatcher.database import Database
from dispatcher.floor import Floor
from dispatcher.lease import Clock, HeldLease
from dispatcher.rate_window import RateWindow
from dispatcher.sender import Sender
from dispatcher.settings import Settings
from dispatcher.store import Answer, Delivery
from dispatcher.telemetry import CrashBuried, EventsCollected, LeaseLost, Listener, Ticked
from dispatcher.vercel import Vercel

P = ParamSpec("P")
T = TypeVar("T")

COLLECT_FOR = 20.0
"""Seconds after which a collection that finds ever more gives way to a claim."""
ANSWERS_WAIT = 64
"""Answers that wait for a settlement while there is more to collect."""
SETTLED_TOGETHER = 256
"""Answers that are settled together, while every sender has more to do …"""
SETTLED_WITHIN = 0.25
"""… and the seconds within which they are settled all the same."""
BUSY_PAUSE = 0.005
ACTIVE_FOR = 1.0
"""Seconds for which ticks stay short after there was something to do."""


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
        self._database = database
        self._settings = settings
        self._report = report
        self._name = name
        self._clock = clock
        self._sender = Sender(vercel, credentials, settings, report, clock, chance)
        self._lease_time = timedelta(seconds=settings.lease)
        self._buffer = max(512, 32 * settings.concurrency)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="database")
        self._leases: dict[str, HeldLease] = {}
        self._outbox_floor = Floor(store.LOWEST_ID)
        self._due_floor = Floor(store.LONG_AGO)
        self._others_wait = False
        self._active_until = 0.0
        self._pause = BUSY_PAUSE
        self._stopping = False
        self._ticking = asyncio.Lock()

    @property
    def in_flight(self) -> int:
        """Requests under way."""
        return sum(lease.in_flight for lease in self._leases.values())

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
            more = False
            if self._sender.outage:
                self._stop_idle()
            if not self._stopping:
                more = await self._take_in()
                await self._pull()
                self._sender.send()
            if self._settlement_is_due():
                await self._settle()  # last, so that what was just committed does not wait for it
            self._report(Ticked(self.in_flight))
            return max(0.0, self._next_pause(more) - (self._clock() - began))

    async def stop(self, grace: float) -> None:
        """Claims nothing more, lets what is in flight finish for up to `grace` seconds, settles it, gives all leases back.

        Whoever calls `tick` may go on doing so meanwhile: the answers that come in are settled sooner.
        """
        self._stopping = True
        self._sender.begin_stop()
        async with self._ticking:
            for lease in self._leases.values():
                lease.drop_queue()
        await self._sender.finish(grace)
        async with self._ticking:
            await self._settle(release_all=True)

    def close(self) -> None:
        """Ends the thread that speaks to the database."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _take_in(self) -> bool:
        """Collects and claims if there is anything; whether more may wait."""
        began = self._clock()
        floors = self._outbox_floor.at(began), self._due_floor.at(began)
        work = await self._in_thread(store.look, self._database, *floors)
        if not work.to_collect:
            self._outbox_floor.swept(began)
        if not work.to_claim:
            self._due_floor.swept(began)
        more = work.to_collect and await self._collect()
        may_claim = (work.to_claim or work.to_collect) and self._sender.wait() <= 0
        return (may_claim and await self._claim()) or more

    async def _in_thread(self, step: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, partial(step, *args, **kwargs))

    # collect ──────────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _collect(self) -> bool:
        """Whether more may wait. What waits in the outbox comes first, or a subject would be announced once for each collection."""
        delay = timedelta(seconds=self._settings.settle_delay)
        until = self._clock() + COLLECT_FOR
        while not self._stopping:
            began = self._clock()
            floor = self._outbox_floor.at(began)
            collected = await self._in_thread(
                store.collect, self._database, self._database.dialect.collected_at_once, floor, delay
            )
            if collected.events:
                self._active_until = began + ACTIVE_FOR
                self._outbox_floor.passed(began, collected.last_event_id)
                self._report(EventsCollected(collected.events, collected.malformed))
            if not collected.full:
                self._outbox_floor.swept(began)
                return False
            if began >= until:
                break
            if len(self._sender.answers) >= ANSWERS_WAIT:
                await self._settle()
        return True

    # claim ────────────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _claim(self) -> bool:
        """Whether more may be due."""
        if sum(len(lease.queue) for lease in self._leases.values()) > self._buffer // 2:
            return False
        began, probing = self._clock(), self._sender.outage
        claimed = await self._in_thread(
            store.claim,
            self._database,
            installations=1 if probing else self._database.dialect.claimed_at_once,
            deliveries=1 if probing else self._buffer,
            lease=self._lease_time,
            leased_by=self._name,
            max_attempts=self._settings.max_attempts,
            due_floor=self._due_floor.at(began),
        )
        clock = Clock(claimed.at.timestamp() - self._clock(), claimed.at.timestamp() - began)
        most = store.fair_share(self._buffer, len(claimed.leased))
        for leased in claimed.leased:
            lease = HeldLease.of(leased, began + self._settings.lease, clock, self._window(leased.rate_window))
            self._leases[leased.installation_id] = lease
            self._queue(lease, leased.deliveries, most)
        if claimed.buried:
            self._report(CrashBuried(claimed.buried))
        if claimed.leased:
            self._active_until = began + ACTIVE_FOR
        self._others_wait = claimed.full
        if not claimed.full:
            self._due_floor.swept(began)
            self._due_floor.passed(began, claimed.at)
        return claimed.full

    def _window(self, stored: str | None) -> RateWindow | None:
        limit = self._settings.rate_limit
        return RateWindow(limit.requests, limit.seconds, stored) if limit else None

    def _queue(self, lease: HeldLease, deliveries: Iterable[Delivery], asked: int) -> None:
        lease.add(deliveries, asked, self._clock())
        self._sender.queue(lease)

    async def _pull(self) -> None:
        """Renews leases that have grown short, and reads more for installations that can send more."""
        now = self._clock()
        low = [lease for lease in self._leases.values() if self._wants_more(lease, now)]
        if not low:
            return
        most = store.fair_share(self._buffer, len(low))
        asked = most + max(len(lease.held) for lease in low)
        tokens = {lease.installation_id: lease.token for lease in low}
        found = await self._in_thread(store.pull, self._database, tokens, asked, self._lease_time)
        for lease in low:
            if lease.installation_id in found:
                lease.until = now + self._settings.lease
                self._queue(lease, found[lease.installation_id], asked)
        self._forget(frozenset(tokens) - found.keys())

    def _wants_more(self, lease: HeldLease, now: float) -> bool:
        if lease.stopped_until is not None or lease.probing or self._sender.outage:
            return False
        if lease.until - now < self._settings.lease / 2:
            return True
        if len(lease.queue) > self._settings.concurrency:
            return False
        if lease.more:
            return bool(lease.in_flight) or not self._others_wait
        return bool(lease.in_flight) and now - lease.pulled_at >= self._settings.poll_interval

    # settle ───────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _settlement_is_due(self) -> bool:
        """A settlement costs nearly the same for few answers as for many, and nobody waits for it while there is enough to send."""
        answers = self._sender.answers
        if not self._sender.saturated or not answers or len(answers) >= SETTLED_TOGETHER:
            return True
        return self._clock() - answers[0].answered_at >= SETTLED_WITHIN

    async def _settle(self, *, release_all: bool = False) -> None:
        """Writes the answers so far, and gives the leases back under which nothing remains to be sent."""
        most = self._database.dialect.settled_at_once
        while len(self._sender.answers) > most:
            await self._settle_first(most, lambda _: False)
        await self._settle_first(most, lambda lease: release_all or self._is_done(lease))

    async def _settle_first(self, most: int, releases: Callable[[HeldLease], bool]) -> None:
        """In one transaction. A lease under which other answers wait is not given back."""
        now = self._clock()
        taken = self._sender.answers[:most]
        answers = [answer for answer in taken if self._is_held(answer)]
        for answer in answers:
            answer.age = now - answer.answered_at
        touched = {answer.delivery.subject.installation_id for answer in answers}
        states = [
            lease.state(now, release=releases(lease))
            for installation_id, lease in sorted(self._leases.items())
            if installation_id in touched or releases(lease)
        ]
        if not states:
            del self._sender.answers[: len(taken)]
            return
        settled = await self._in_thread(
            store.settle,
            self._database,
            answers,
            states,
            self._lease_time,
            failures_only=not self._settings.attempt_retention,
        )
        del self._sender.answers[: len(taken)]
        for answer in answers:
            self._leases[answer.delivery.subject.installation_id].held.discard(answer.delivery.subject_key)
        for state in states:
            if state.release:
                del self._leases[state.installation_id]
            else:
                self._leases[state.installation_id].until = now + self._settings.lease
        for installation_id in settled.paused & self._leases.keys():
            self._leases[installation_id].stop(now)
        self._forget(settled.lost)
        self._active_until = max(self._active_until, now + ACTIVE_FOR) if answers else self._active_until

    def _stop_idle(self) -> None:
        """While the host is out, nothing is held back from other dispatchers, and nothing is due under a lease that may expire."""
        for lease in self._leases.values():
            if not lease.in_flight:
                lease.stop(self._clock())

    def _is_held(self, answer: Answer) -> bool:
        lease = self._leases.get(answer.delivery.subject.installation_id)
        return lease is not None and lease.token == answer.token

    def _is_done(self, lease: HeldLease) -> bool:
        """Nothing is in flight, and nothing more can be sent, or others have waited longer."""
        if lease.in_flight or (lease.queue and lease.stopped_until is None):
            return False
        return not lease.more or lease.stopped_until is not None or self._others_wait

    def _forget(self, lost: frozenset[str]) -> None:
        """Leases that are another's by now: what was planned under them is theirs."""
        for installation_id in lost:
            if (lease := self._leases.pop(installation_id, None)) is not None:
                lease.drop_queue()
        if lost:
            self._report(LeaseLost(len(lost)))

    def _next_pause(self, more: bool) -> float:
        if more or self._sender.answers or self._leases or self._clock() < self._active_until:
            self._pause = BUSY_PAUSE
        else:
            self._pause = min(self._pause * 1.5, self._settings.poll_interval)
        return min(self._pause, self._settings.poll_interval)
