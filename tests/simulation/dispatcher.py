"""One dispatcher: the tick of `dispatcher/worker`, stage by stage, in the simulated tables.

`_tick`, `_take_in` and `_next_pause` are those of `worker.py`; `_claim` and `_pull` those of `leases.py`, `_collect` that of
`collection.py`, `_settle` that of `settlement.py`. Left out: crashes, suspects, removals, locked rows, sweeps, stopping.
"""

import math
from collections.abc import Callable, Generator, Sequence
from operator import attrgetter
from typing import TypeVar

from dispatcher.database.dialect import Dialect
from dispatcher.policy.decision import Action
from dispatcher.policy.rate_window import RateWindow
from dispatcher.settings.settings import Settings
from dispatcher.store import Answer, Collected, Delivery, InstallationState, fair_share
from dispatcher.worker.collection import MAX_COLLECT_SECONDS, MAX_WAITING_ANSWERS, Burst
from dispatcher.worker.lease import Clock as DatabaseClock
from dispatcher.worker.lease import HeldLease
from dispatcher.worker.leases import PULL_SECONDS
from dispatcher.worker.outbox_scan import OTHERS_COLLECT_SECONDS
from dispatcher.worker.pace import STANDARD
from dispatcher.worker.worker import ACTIVE_SECONDS, BUSY_PAUSE_SECONDS, SATURATED_PAUSE_SECONDS
from tests.simulation import costs
from tests.simulation.clock import Clock, Process
from tests.simulation.sender import Sender
from tests.simulation.server import Server
from tests.simulation.tables import Tables
from tests.simulation.vercel import Tokens, Vercel

SHORT_CHECK_SECONDS = 1.0
"""Leases that end soon are looked for once in this time, not in every tick: it changes no figure, and saves a third of the time."""
Result = TypeVar("Result")
Stage = Generator[float, None, Result]
"""A part of a tick: yields the time at which it goes on, and returns its result."""


class Dispatcher:
    """Delivers together with others. `dialect`: whose batch sizes it has. `random` returns a number in [0, 1)."""

    def __init__(
        self,
        name: str,
        clock: Clock,
        server: Server,
        tables: Tables,
        vercel: Vercel,
        tokens: Tokens | None,
        settings: Settings,
        dialect: type[Dialect],
        random: Callable[[], float],
    ) -> None:
        self._name = name
        self._clock = clock
        self._server = server
        self._tables = tables
        self._settings = settings
        self._dialect = dialect
        self._sender = Sender(clock, server, vercel, tokens, settings, random, self._hear)
        self._held: dict[str, HeldLease] = {}
        self._buffer = max(512, 32 * settings.concurrency)
        self._others_wait = False
        self._first_short_at = 0.0
        """The next time to look for leases that end soon."""
        self._burst = Burst(STANDARD.burst_sample_events)
        self._collecting_beside = False
        self._collects_from = -math.inf
        self._found_at = self._settled_at = -math.inf
        self._pause = BUSY_PAUSE_SECONDS
        self._sleep = 0
        """The number of the present pause."""
        self._listens = self._has_heard = False

    def start(self) -> None:
        """Runs from now on."""
        self._clock.start(self._tick())

    @property
    def queued(self) -> int:
        """Deliveries that wait for their turn."""
        return self._sender.queued

    # pauses ───────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _rest(self, pause: float) -> None:
        """Waits for the next tick; if the pause is long, only until a request ends."""
        self._listens = pause > SATURATED_PAUSE_SECONDS and bool(self._held)
        at = self._clock.now if self._listens and self._has_heard else self._clock.now + pause
        self._clock.call(at, self._wake, self._sleep)

    def _hear(self) -> None:
        self._has_heard = True
        if self._listens:
            self._listens = False
            self._clock.call(self._clock.now, self._wake, self._sleep)

    def _wake(self, sleep: int) -> None:
        if sleep == self._sleep:
            self._sleep += 1
            self._clock.start(self._tick())

    def _next_pause(self, *, more: bool) -> float:
        limit = self._settings.poll_interval
        if self._held:
            limit = min(limit, STANDARD.max_holding_pause_seconds)
        if self._sender.has_turns_left:
            limit = min(limit, max(self._sender.wait(), BUSY_PAUSE_SECONDS))
        active_until = max(self._found_at, self._settled_at) + ACTIVE_SECONDS
        if more or self._sender.answers or self._clock.now < active_until:
            goes_on_by_itself = self._sender.saturated and self._has_plenty()
            self._pause = SATURATED_PAUSE_SECONDS if goes_on_by_itself else BUSY_PAUSE_SECONDS
        else:
            self._pause = min(self._pause * 1.5, self._settings.poll_interval)
        return min(self._pause, limit)

    # tick ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _tick(self) -> Process:
        began = self._clock.now
        self._listens = self._has_heard = False
        if self._sender.outage:
            self._stop_idle()
        more = yield from self._take_in()
        yield from self._pull()
        self._sender.send()
        if self._settles_now():
            yield from self._settle()
        self._rest(max(0.0, self._next_pause(more=more) - (self._clock.now - began)))

    def _stop_idle(self) -> None:
        for lease in self._held.values():
            if not lease.in_flight:
                self._sender.queued -= len(lease.queue)
                lease.stop(self._clock.now)

    def _take_in(self) -> Stage[bool]:
        yield self._server.run("look", costs.LOOK)
        to_collect, to_claim = self._tables.in_outbox > 0, self._tables.any_due(self._clock.now)
        if not to_collect:
            self._burst = Burst(STANDARD.burst_sample_events)
        to_collect = (to_collect and self._clock.now >= self._collects_from) or self._collecting_beside
        more = False
        if to_collect:
            more = yield from self._collect()
        claimed = False
        if (to_claim or to_collect) and self._sender.wait() <= 0:
            claimed = yield from self._claim()
        return claimed or more

    # collect ──────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _collect(self) -> Stage[bool]:
        if self._collecting_beside:
            return True
        if self._burst.saves_no_requests and self._dialect.writes_in_parallel:
            self._collecting_beside = True
            self._clock.start(self._collect_beside())
            return True
        return (yield from self._collect_burst(is_awaited=True))

    def _collect_beside(self) -> Process:
        yield from self._collect_burst(is_awaited=False)
        self._collecting_beside = False

    def _collect_burst(self, *, is_awaited: bool) -> Stage[bool]:
        until = self._clock.now + min(MAX_COLLECT_SECONDS, self._settings.lease / 4)
        while True:
            began = self._clock.now
            collected = yield from self._collect_once()
            if collected.skipped:
                return False
            if not collected.full:
                self._burst = Burst(STANDARD.burst_sample_events)
                return False
            self._burst.add(collected)
            if (is_awaited and self._burst.saves_no_requests) or began >= until:
                return True
            if is_awaited and len(self._sender.answers) >= MAX_WAITING_ANSWERS:
                yield from self._settle()

    def _collect_once(self) -> Stage[Collected]:
        began = self._clock.now
        if self._tables.is_locked:
            yield self._server.run("skipped collection", costs.SKIPPED_COLLECT)
            self._collects_from = began + OTHERS_COLLECT_SECONDS
            return Collected(skipped=True)
        limit = self._dialect.max_collected
        events = self._tables.begin_collection(limit)
        ids = frozenset(event.installation_id for event in events)
        if events:
            yield self._server.run("collection", costs.collect(len(events), len(ids)))
        else:
            yield self._server.run("empty collection", costs.EMPTY_COLLECT)
        self._tables.end_collection(events, self._clock.now)
        if events:
            self._found_at = began
            for id_ in self._held.keys() & ids:
                lease = self._held[id_]
                lease.more = lease.more or not lease.probing
        return Collected(len(events), frozenset(map(attrgetter("subject_key"), events)), full=len(events) == limit)

    # leases ───────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _has_plenty(self) -> bool:
        return self._sender.queued > self._buffer // 4

    def _claim(self) -> Stage[bool]:
        if self._has_plenty():
            return False
        began, probing = self._clock.now, self._sender.outage
        limit = 1 if probing else self._dialect.max_claimed
        deliveries = 1 if probing else self._buffer
        token, until = self._name, began + self._settings.lease
        ids = self._tables.lease(limit, began, token, until)
        leased = self._tables.read(ids, fair_share(deliveries, len(ids)), token, began)
        read = sum(len(one.deliveries) for one in leased)
        yield self._server.run("claim" if ids else "empty claim", costs.claim(read, len(ids)))
        clock = DatabaseClock(
            began - self._clock.now, 0.0
        )  # the offset is zero, but the worker cannot know how long the way back took
        rate = self._settings.rate_limit
        share = fair_share(self._buffer, len(leased))
        for one in leased:
            window = RateWindow(rate.requests, rate.seconds, one.rate_window) if rate else None
            lease = HeldLease.of(one, until, clock, window)
            self._held[one.installation_id] = lease
            self._queue(lease, one.deliveries, share)
        self._others_wait = len(leased) == limit
        return self._others_wait

    def _queue(self, lease: HeldLease, deliveries: Sequence[Delivery], limit: int) -> None:
        before = len(lease.queue)
        lease.add(deliveries, limit, self._clock.now)
        self._sender.queued += len(lease.queue) - before
        self._sender.queue(lease)

    def _pull(self) -> Process:
        now = self._clock.now
        any_short = now >= self._first_short_at
        if any_short:
            yield from self._renew()
            self._first_short_at = now + SHORT_CHECK_SECONDS
        plenty = self._has_plenty()
        if plenty and not any_short:
            return
        short_until = now + self._settings.lease / 2
        wanting = [
            lease
            for lease in self._held.values()
            if (lease.until < short_until or (not plenty and (lease.in_flight or lease.more)))
            and self._wants_more(lease, now)
        ]
        if not wanting:
            return
        limit = fair_share(self._buffer, len(wanting)) + max(len(lease.held) for lease in wanting)
        ids = [lease.installation_id for lease in wanting]
        self._tables.renew(ids, now + self._settings.lease)
        pulled = self._tables.read(ids, limit, self._name, now)
        yield self._server.run("pull", costs.pull(sum(len(one.deliveries) for one in pulled), len(ids)))
        for lease, one in zip(wanting, pulled, strict=True):
            lease.until = now + self._settings.lease
            self._queue(lease, one.deliveries, limit)

    def _renew(self) -> Process:
        now = self._clock.now
        short_until = now + self._settings.lease / 2
        short = [
            lease
            for lease in self._held.values()
            if lease.until < short_until and lease.stopped_until is None and lease.one_at_a_time
        ]
        if not short:
            return
        self._tables.renew([lease.installation_id for lease in short], now + self._settings.lease)
        yield self._server.run("renewal", costs.renew(len(short)))
        for lease in short:
            lease.until = now + self._settings.lease
            self._sender.queue(lease)

    def _wants_more(self, lease: HeldLease, now: float) -> bool:
        if lease.until - now >= self._settings.lease / 2:
            if len(lease.queue) > self._settings.concurrency:
                return False
            if not lease.more and now - lease.pulled_at < max(PULL_SECONDS, self._settings.poll_interval):
                return False
            if not lease.in_flight and (not lease.more or self._others_wait):
                return False
        return lease.stopped_until is None and not lease.one_at_a_time and not self._sender.outage

    # settle ───────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _settles_now(self) -> bool:
        answers = self._sender.answers
        if not self._sender.saturated or not answers or len(answers) >= STANDARD.max_waiting_answers:
            return True
        return self._clock.now - answers[0].answered_at >= STANDARD.answer_wait_seconds

    def _settle(self) -> Process:
        began, limit, any_answer = self._clock.now, self._dialect.max_settled, bool(self._sender.answers)
        while len(self._sender.answers) > limit:
            yield from self._settle_batch(self._sender.answers[:limit], gives_back=False)
        yield from self._settle_batch(self._sender.answers[:], gives_back=True)
        if any_answer:
            self._settled_at = began

    def _settle_batch(self, answers: Sequence[Answer], *, gives_back: bool) -> Process:
        now = self._clock.now
        touched = {answer.delivery.subject.installation_id for answer in answers}
        states = [
            lease.state(now, release=release, fresh=self._is_fresh(lease, now))
            for id_, lease in self._held.items()
            if not lease.queue or lease.stopped_until is not None or id_ in touched  # the others are neither
            if (release := gives_back and lease.is_done(others_wait=self._others_wait)) or id_ in touched
        ]
        del self._sender.answers[: len(answers)]
        if not states:
            return
        yield self._server.run("settlement", _cost(answers, states))
        self._tables.settle(answers, states, self._clock.now, self._settings.lease)
        for answer in answers:
            self._held[answer.delivery.subject.installation_id].held.discard(answer.delivery.subject_key)
        for state in states:
            if state.release:
                # One that was stopped during a pull still has a queue.
                self._sender.queued -= len(self._held.pop(state.installation_id).queue)
            elif not state.as_written:
                self._held[state.installation_id].renew(now + self._settings.lease, state)

    def _is_fresh(self, lease: HeldLease, now: float) -> bool:
        quarter = self._settings.lease / 4
        return lease.until - now > 3 * quarter and lease.outlasts(now + quarter, self._settings.request_timeout)


def _cost(answers: Sequence[Answer], states: Sequence[InstallationState]) -> costs.Cost:
    any_delivered = any(answer.decision.action is Action.DELIVERED for answer in answers)
    any_released = any(state.release for state in states)
    return costs.settle(len(answers), len(states), any_delivered=any_delivered, any_released=any_released)
