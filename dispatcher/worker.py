"""The pipeline. A tick settles what was answered, collects, claims; senders work through what was claimed meanwhile.

The database is touched by ticks only, one short transaction after the other, in one thread. A request is sent outside of any.
"""

import asyncio
import random
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from typing import ParamSpec, TypeVar

from dispatcher import store
from dispatcher.credentials import Credentials, CredentialsUnavailable, NoCredential
from dispatcher.database import Database
from dispatcher.floor import Floor
from dispatcher.lease import HeldLease
from dispatcher.policy import Action, Decision, Outcome, OutcomeKind, Policy, RateWindow, decide
from dispatcher.settings import Settings
from dispatcher.store import Answer, Delivery
from dispatcher.telemetry import Attempted, CrashBuried, EventsCollected, LeaseLost, Listener, Ticked
from dispatcher.vercel import Vercel

P = ParamSpec("P")
T = TypeVar("T")

COLLECTED_AT_ONCE = 500
COLLECTIONS_A_TICK = 10
INSTALLATIONS_AT_ONCE = 256
BUSY_PAUSE = 0.02
ACTIVE_FOR = 1.0
"""Seconds for which ticks stay short after there was something to do."""


@dataclass(slots=True)
class Tally:
    """What a worker has done so far."""

    events: int = 0
    requests: int = 0
    delivered: int = 0
    dead_lettered: int = 0


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
        self._vercel = vercel
        self._credentials = credentials
        self._settings = settings
        self._report = report
        self._name = name
        self._clock = clock
        self._chance = chance
        self._policy = Policy(
            settings.max_attempts,
            settings.backoff_base,
            settings.backoff_cap,
            settings.auth_grace,
            settings.disabled_grace,
        )
        overall = settings.global_rate_limit
        self._overall = RateWindow(overall.requests, overall.seconds) if overall else None
        self._lease_time = timedelta(seconds=settings.lease)
        self._buffer = max(512, 8 * settings.concurrency)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="database")
        self._leases: dict[str, HeldLease] = {}
        self._rota: deque[HeldLease] = deque()
        self._answers: list[Answer] = []
        self._senders: set[asyncio.Task[None]] = set()
        self._outbox_floor = Floor(store.LOWEST_ID)
        self._due_floor = Floor(store.LONG_AGO)
        self._others_wait = False
        self._active_until = 0.0
        self._pause = BUSY_PAUSE
        self._stopping = False
        self.tally = Tally()

    @property
    def in_flight(self) -> int:
        """Requests under way."""
        return sum(lease.in_flight for lease in self._leases.values())

    @property
    def idle(self) -> bool:
        """Whether nothing is leased and nothing waits to be settled."""
        return not self._leases and not self._answers

    async def tick(self) -> float:
        """One round of the pipeline; returns in how many seconds the next is wanted. Raises what the database raises."""
        more = False
        await self._settle()
        if not self._stopping:
            look = await self._in_thread(store.look, self._database, *self._floors())
            more = look.to_collect and await self._collect()
            more |= await self._claim(look.to_claim or look.to_collect)
            await self._pull()
            self._send()
        self._report(Ticked(self.in_flight))
        return self._next_pause(more)

    async def stop(self, grace: float) -> None:
        """Claims nothing more, lets what is in flight finish for up to `grace` seconds, settles it, gives all leases back."""
        self._stopping = True
        for lease in self._leases.values():
            lease.drop_queue()
        if self._senders:
            _, late = await asyncio.wait(self._senders, timeout=grace)
            for sender in late:
                sender.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        await self._settle(release_all=True)

    def close(self) -> None:
        """Ends the thread that speaks to the database."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _floors(self) -> tuple[int, datetime]:
        now = self._clock()
        return self._outbox_floor.at(now), self._due_floor.at(now)

    async def _in_thread(self, step: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, partial(step, *args, **kwargs))

    # collect ──────────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _collect(self) -> bool:
        """Whether more may wait."""
        delay = timedelta(seconds=self._settings.settle_delay)
        for _ in range(COLLECTIONS_A_TICK):
            began = self._clock()
            floor = self._outbox_floor.at(began)
            collected = await self._in_thread(store.collect, self._database, COLLECTED_AT_ONCE, floor, delay)
            if collected.events:
                self._active_until = began + ACTIVE_FOR
                self.tally.events += collected.events
                self.tally.dead_lettered += collected.malformed
                self._outbox_floor.passed(began, collected.last_event_id)
                self._report(EventsCollected(collected.events, collected.malformed))
            if not collected.full:
                self._outbox_floor.swept(began)
                return False
        return True

    # claim ────────────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _claim(self, due: bool) -> bool:
        """Whether more may be due."""
        queued = sum(len(lease.queue) for lease in self._leases.values())
        began = self._clock()
        if not due or queued > self._buffer // 2:
            self._due_floor.swept(began)
            return False
        claimed = await self._in_thread(
            store.claim,
            self._database,
            installations=INSTALLATIONS_AT_ONCE,
            deliveries=self._buffer,
            lease=self._lease_time,
            leased_by=self._name,
            max_attempts=self._settings.max_attempts,
            due_floor=self._due_floor.at(began),
        )
        offset = claimed.at.timestamp() - began
        most = store.fair_share(self._buffer, len(claimed.leased))
        for leased in claimed.leased:
            lease = HeldLease.of(leased, began + self._settings.lease, offset, self._window(leased.rate_window))
            self._leases[leased.installation_id] = lease
            self._queue(lease, leased.deliveries, most)
        if claimed.buried:
            self.tally.dead_lettered += claimed.buried
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

    def _queue(self, lease: HeldLease, deliveries: "tuple[Delivery, ...] | list[Delivery]", asked: int) -> None:
        lease.add(deliveries, asked, self._clock())
        if lease.queue and not lease.in_rota:
            lease.in_rota = True
            self._rota.append(lease)

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
        self._forget({lease.installation_id for lease in low} - found.keys())

    def _wants_more(self, lease: HeldLease, now: float) -> bool:
        if lease.stopped_until is not None or lease.probing:
            return False
        if lease.until - now < self._settings.lease / 2:
            return True
        if len(lease.queue) > self._settings.concurrency:
            return False
        if lease.more:
            return bool(lease.in_flight) or not self._others_wait
        return bool(lease.in_flight) and now - lease.pulled_at >= self._settings.poll_interval

    # send ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _send(self) -> None:
        waiting = sum(len(lease.queue) for lease in self._rota)
        for _ in range(min(self._settings.concurrency - len(self._senders), waiting)):
            sender = asyncio.create_task(self._send_while_any())
            self._senders.add(sender)
            sender.add_done_callback(self._senders.discard)

    async def _send_while_any(self) -> None:
        while (picked := self._pick()) is not None:
            lease, delivery = picked
            try:
                await self._attempt(lease, delivery)
            finally:
                lease.in_flight -= 1

    def _pick(self) -> tuple[HeldLease, Delivery] | None:
        """The next in turn: one delivery of each installation, then round again."""
        now = self._clock()
        while self._rota and not self._stopping:
            if self._overall is not None and self._overall.wait(now) > 0:
                return None
            lease = self._rota.popleft()
            delivery = lease.next(now, self._settings.request_timeout)
            lease.in_rota = bool(lease.queue) and (delivery is not None)
            if lease.in_rota:
                self._rota.append(lease)
            if delivery is not None:
                if self._overall is not None:
                    self._overall.take(now)
                return lease, delivery
        return None

    async def _attempt(self, lease: HeldLease, delivery: Delivery) -> None:
        outcome = await self._request(lease, delivery, refresh=False)
        if outcome is not None and outcome.kind is OutcomeKind.UNAUTHORIZED and outcome.status is not None:
            self._answer(lease, delivery, outcome, Decision(Action.THROTTLE))
            outcome = await self._request(lease, delivery, refresh=True)
        if outcome is None:
            lease.held.discard(delivery.subject_key)
            return
        failures = lease.failures + (outcome.kind is not OutcomeKind.DELIVERED and lease.stopped_until is None)
        decision = decide(
            outcome,
            attempts=delivery.attempts,
            failures=failures,
            paused_for=lease.paused_for,
            policy=self._policy,
            random=self._chance,
        )
        self._follow(lease, decision, failures)
        self._answer(lease, delivery, outcome, decision)

    async def _request(self, lease: HeldLease, delivery: Delivery, *, refresh: bool) -> Outcome | None:
        """One request; None if the lease has grown too short for it meanwhile."""
        subject = delivery.subject
        try:
            token = await self._credentials.token(subject.installation_id, refresh=refresh)
        except NoCredential as error:
            return Outcome(OutcomeKind.NO_CREDENTIAL, error=str(error))
        except CredentialsUnavailable as error:
            return Outcome(OutcomeKind.CREDENTIALS_UNAVAILABLE, error=str(error))
        if not lease.outlasts(self._clock(), self._settings.request_timeout):
            return None
        self.tally.requests += 1
        return await self._vercel.send(subject.installation_id, subject.body(delivery.billing_plan_id), token)

    def _follow(self, lease: HeldLease, decision: Decision, failures: int) -> None:
        """What the decision means for the rest of the installation."""
        match decision.action:
            case Action.DELIVERED:
                lease.failures = 0
                lease.paused_for = None
                self.tally.delivered += 1
            case Action.THROTTLE:
                lease.failures = failures
                lease.stop(self._clock() + decision.delay)
            case Action.PAUSE:
                lease.failures = failures
                lease.stop(self._clock())
            case Action.RETRY:
                lease.failures = failures
            case Action.BURY:
                self.tally.dead_lettered += 1

    def _answer(self, lease: HeldLease, delivery: Delivery, outcome: Outcome, decision: Decision) -> None:
        now = self._clock()
        self._answers.append(Answer(delivery, lease.token, outcome, decision, answered_at=now))
        lag = now + lease.clock_offset - delivery.first_created_at.timestamp()
        self._report(Attempted(delivery.subject, delivery.attempts + 1, delivery.events, outcome, decision, lag))

    # settle ───────────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _settle(self, *, release_all: bool = False) -> None:
        """Writes the answers so far, and gives the leases back under which nothing remains to be sent."""
        now = self._clock()
        taken = len(self._answers)
        answers = [replace(answer, age=now - answer.answered_at) for answer in self._answers if self._is_held(answer)]
        touched = {answer.delivery.subject.installation_id for answer in answers}
        states = [
            lease.state(now, release=release_all or self._is_done(lease))
            for installation_id, lease in sorted(self._leases.items())
            if installation_id in touched or release_all or self._is_done(lease)
        ]
        if not states:
            self._answers.clear()
            return
        settled = await self._in_thread(
            store.settle,
            self._database,
            answers,
            states,
            self._lease_time,
            failures_only=not self._settings.attempt_retention,
        )
        del self._answers[:taken]
        for answer in answers:
            self._leases[answer.delivery.subject.installation_id].held.discard(answer.delivery.subject_key)
        for state in states:
            if state.release:
                del self._leases[state.installation_id]
            else:
                self._leases[state.installation_id].until = now + self._settings.lease
        self._forget(settled.lost)
        self._active_until = max(self._active_until, now + ACTIVE_FOR) if answers else self._active_until

    def _is_held(self, answer: Answer) -> bool:
        lease = self._leases.get(answer.delivery.subject.installation_id)
        return lease is not None and lease.token == answer.token

    def _is_done(self, lease: HeldLease) -> bool:
        """Nothing is in flight, and nothing more can be sent, or others have waited longer."""
        if lease.in_flight or (lease.queue and lease.stopped_until is None):
            return False
        return not lease.more or lease.stopped_until is not None or self._others_wait

    def _forget(self, lost: "set[str] | frozenset[str]") -> None:
        """Leases that are another's by now: what was planned under them is theirs."""
        for installation_id in lost:
            lease = self._leases.pop(installation_id, None)
            if lease is not None:
                lease.drop_queue()
        if lost:
            self._report(LeaseLost(len(lost)))

    # ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _next_pause(self, more: bool) -> float:
        if more or self._answers:
            return BUSY_PAUSE / 4
        if self._leases or self._clock() < self._active_until:
            self._pause = BUSY_PAUSE
        else:
            self._pause = min(self._pause * 1.5, self._settings.poll_interval)
        return min(self._pause, self._settings.poll_interval)
