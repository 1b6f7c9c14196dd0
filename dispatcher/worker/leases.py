"""All leases that a worker holds: claimed, filled, written to the database with their answers, given back."""

from collections.abc import Callable, Iterable, Sequence, Set
from datetime import timedelta

from dispatcher import store
from dispatcher.database.errors import is_unreachable
from dispatcher.policy.rate_window import RateWindow
from dispatcher.settings.settings import Settings
from dispatcher.store import Answer, Delivery, InstallationState, Settled
from dispatcher.telemetry import CrashBuried, LeaseLost, Listener
from dispatcher.worker.database_thread import DatabaseThread
from dispatcher.worker.lease import Clock, HeldLease
from dispatcher.worker.locked_rows import LockedRows
from dispatcher.worker.low_water import Floor
from dispatcher.worker.refusals import Refusals
from dispatcher.worker.sender import Sender

SETTLED_TOGETHER = 256
"""Answers that are settled together, while every sender has more to do …"""
SETTLED_WITHIN = 0.25
"""… and the seconds within which they are settled all the same."""
PULL_SECONDS = 1.0
"""What is due of a held installation that this worker did not collect itself, such as a retry, is looked for so often."""


class Leases:
    """Fills the sender's queues and settles its answers. `name` is who holds them; `clock` gives monotonic seconds."""

    def __init__(
        self,
        thread: DatabaseThread,
        sender: Sender,
        settings: Settings,
        report: Listener,
        name: str,
        clock: Callable[[], float],
    ) -> None:
        self._thread = thread
        self._sender = sender
        self._settings = settings
        self._report = report
        self._name = name
        self._clock = clock
        self._lease_time = timedelta(seconds=settings.lease)
        self._buffer = max(512, 32 * settings.concurrency)
        self._held: dict[str, HeldLease] = {}
        self._locked = LockedRows()
        self._others_wait = False
        self._refusals = Refusals()
        self.due_floor = Floor(store.LONG_AGO)

    def __len__(self) -> int:
        return len(self._held)

    @property
    def in_flight(self) -> int:
        """Requests under way."""
        return sum(lease.in_flight for lease in self._held.values())

    @property
    def any_expired(self) -> bool:
        """Whether a lease has lasted longer than it was given for, as after a time without the database."""
        now = self._clock()
        return any(lease.until <= now for lease in self._held.values())

    # claim ────────────────────────────────────────────────────────────────────────────────────────────────────────────

    async def claim(self) -> bool:
        """Takes over installations for which something is due; whether more may be due."""
        untried = sum(lease.untried for lease in self._held.values())
        if self._has_plenty() or untried >= self._settings.concurrency:
            return False
        began, probing = self._clock(), self._sender.outage
        claimed = await self._thread.run(
            store.claim,
            installations=1 if probing else self._thread.database.dialect.max_claimed,
            deliveries=1 if probing else self._buffer,
            lease=self._lease_time,
            leased_by=self._name,
            suspects=self._settings.concurrency,
            due_floor=self.due_floor.at(began),
        )
        clock = Clock(claimed.at.timestamp() - self._clock(), claimed.at.timestamp() - began)
        most = store.fair_share(self._buffer, len(claimed.leased))
        for leased in claimed.leased:
            lease = HeldLease.of(leased, began + self._settings.lease, clock, self._window(leased.rate_window))
            self._held[leased.installation_id] = lease
            if not lease.suspects:
                self._queue(lease, leased.deliveries, most)
        self._others_wait = claimed.full
        if not claimed.full:
            self.due_floor.swept(began)
            self.due_floor.passed(began, claimed.at)
        return claimed.full

    def _window(self, stored: str | None) -> RateWindow | None:
        limit = self._settings.rate_limit
        if limit is None:
            return None
        try:
            return RateWindow(limit.requests, limit.seconds, stored)
        except (
            ValueError
        ):  # somebody wrote to the row; whatever was raised now would leave a lease that nobody knows of
            return RateWindow(limit.requests, limit.seconds)

    def _queue(self, lease: HeldLease, deliveries: Iterable[Delivery], asked: int) -> None:
        lease.add(deliveries, asked, self._clock())
        self._sender.queue(lease)

    async def pull(self) -> None:
        """Renews leases that have grown short, and reads more for installations that can send more."""
        await self._renew()
        await self._pull_suspects()
        now, plenty = self._clock(), self._has_plenty()
        low = [
            lease
            for lease in self._held.values()
            if self._wants_more(lease, now, plenty) and not self._locked.has(lease.installation_id, now)
        ]
        if not low:
            return
        most = store.fair_share(self._buffer, len(low))
        asked = most + max(len(lease.held) for lease in low)
        tokens = {lease.installation_id: lease.token for lease in low}
        pulled = await self._thread.run(store.pull, tokens, asked, self._lease_time)
        for lease in self._renewed(low, pulled.deliveries.keys(), pulled.locked, now):
            self._queue(lease, pulled.deliveries[lease.installation_id], asked)

    def _renewed(
        self, leases: Sequence[HeldLease], ours: Set[str], locked: Set[str], now: float
    ) -> Iterable[HeldLease]:
        """Returns those of the leases that have been renewed; they were, if they are `ours`, or locked by somebody, or lost."""
        self._locked.note(locked, now)
        self._forget({lease.installation_id for lease in leases} - ours - locked)
        renewed = [lease for lease in leases if lease.installation_id in ours]
        for lease in renewed:
            lease.until = now + self._settings.lease
        return renewed

    def expect_more(self, installation_ids: Set[str]) -> None:
        """Events of these installations were collected: a held lease reads again, unless it sends one request at a time."""
        for installation_id in self._held.keys() & installation_ids:
            lease = self._held[installation_id]
            lease.more = lease.more or not lease.probing

    async def _renew(self) -> None:
        """Those under which one request at a time is sent: they wait for their turn, and need nothing more to send."""
        now = self._clock()
        short = [
            lease
            for lease in self._held.values()
            if lease.one_at_a_time and self._is_short(lease, now) and not self._locked.has(lease.installation_id, now)
        ]
        if not short:
            return
        tokens = {lease.installation_id: lease.token for lease in short}
        pulled = await self._thread.run(store.renew, tokens, self._lease_time)
        for lease in self._renewed(short, pulled.deliveries.keys(), pulled.locked, now):
            self._sender.queue(lease)

    async def _pull_suspects(self) -> None:
        """After a crash: of each installation the next delivery, once the one before it has been settled."""
        now, at_once = self._clock(), self._settings.concurrency
        suspected = [lease for lease in self._held.values() if lease.suspects]
        under_way = sum(bool(lease.held) for lease in suspected)
        ready = [
            lease
            for lease in suspected
            if lease.wants_suspect(now) and not self._locked.has(lease.installation_id, now)
        ][: max(0, at_once - under_way)]
        if not ready or self._sender.wait() > 0:
            return
        tokens = {lease.installation_id: lease.token for lease in ready}
        most = self._settings.max_attempts
        found = await self._thread.run(
            store.pull_suspects, tokens, self._lease_time, at_once=at_once, under_way=under_way, max_attempts=most
        )
        first = {one.subject.installation_id: one for one in found.deliveries}
        for lease in self._renewed(ready, found.ours, found.locked, now):
            lease.suspects_at = now + self._settings.poll_interval
            lease.more = lease.installation_id in found.due
            if lease.installation_id in first:
                lease.suspects_at = now
                self._queue(lease, [first[lease.installation_id]], 1)
        if found.buried:
            self._report(CrashBuried(found.buried))

    def _is_short(self, lease: HeldLease, now: float) -> bool:
        return lease.stopped_until is None and lease.until - now < self._settings.lease / 2

    def _has_plenty(self) -> bool:
        """Whether so much is queued that reading more can wait; a claim or pull costs nearly the same for little as for much."""
        return sum(len(lease.queue) for lease in self._held.values()) > self._buffer // 4

    def _wants_more(self, lease: HeldLease, now: float, plenty: bool) -> bool:
        if lease.stopped_until is not None or lease.one_at_a_time or self._sender.outage:
            return False
        if self._is_short(lease, now):
            return True
        if plenty or len(lease.queue) > self._settings.concurrency:
            return False
        if lease.more:
            return bool(lease.in_flight) or not self._others_wait
        return bool(lease.in_flight) and now - lease.pulled_at >= max(PULL_SECONDS, self._settings.poll_interval)

    # settle ───────────────────────────────────────────────────────────────────────────────────────────────────────────

    def settlement_is_due(self) -> bool:
        """A settlement costs nearly the same for few answers as for many, and nobody waits for it while there is enough to send."""
        answers = self._sender.answers
        if not self._sender.saturated or not answers or len(answers) >= SETTLED_TOGETHER:
            return True
        return self._clock() - answers[0].answered_at >= SETTLED_WITHIN

    async def settle(self, *, release_all: bool = False) -> bool:
        """Writes the answers so far, and gives the leases back under which nothing remains to be sent; whether there was any answer.

        Those of installations that somebody keeps locked wait; they are tried again now and then.
        """
        any_answer = bool(self._sender.answers)
        if release_all:
            self._locked.retry()
        self._sender.answers[:0] = self._locked.take(self._clock())
        at_once = self._thread.database.dialect.max_settled
        while len(first := self._refusals.first(self._sender.answers, at_once)) < len(self._sender.answers):
            await self._settle(first, lambda _: False)
        await self._settle(first, lambda lease: release_all or self._is_done(lease))
        return any_answer

    async def _settle(self, taken: list[Answer], releases: Callable[[HeldLease], bool]) -> None:
        """In one transaction. A lease under which other answers wait is not given back."""
        now = self._clock()
        ours = [answer for answer in taken if self._is_ours(answer)]
        answers = [answer for answer in ours if not self._is_locked(answer, now)]
        for answer in answers:
            answer.age = now - answer.answered_at
        touched = {answer.delivery.subject.installation_id for answer in answers}
        states = [
            lease.state(now, release=releases(lease), fresh=self._is_fresh(lease, now))
            for installation_id, lease in sorted(self._held.items())
            if not self._locked.has(installation_id, now) and (installation_id in touched or releases(lease))
        ]
        settled = await self._write(taken, answers, states) if states else Settled()
        if len(taken) == len(self._sender.answers):
            self._refusals.end()
        del self._sender.answers[: len(taken)]
        self._locked.note(settled.locked, now)
        for answer in ours:
            if self._is_locked(answer, now):
                self._locked.keep(answer)
            else:
                self._held[answer.delivery.subject.installation_id].held.discard(answer.delivery.subject_key)
        self._follow(settled, [state for state in states if state.installation_id not in settled.locked], now)

    async def _write(self, taken: list[Answer], answers: list[Answer], states: list[InstallationState]) -> Settled:
        try:
            return await self._thread.run(
                store.settle, answers, states, self._lease_time, failures_only=not self._settings.attempt_retention
            )
        except Exception as error:
            if not is_unreachable(error) and not self._thread.database.dialect.is_transient(error):
                self._give_up(self._refusals.note(taken))
            raise

    def _give_up(self, refused: Answer | None) -> None:
        if refused is not None:
            del self._sender.answers[0]
            for lease in self._held.values():
                lease.held.discard(refused.delivery.subject_key)

    def _follow(self, settled: Settled, states: Iterable[InstallationState], now: float) -> None:
        """What became of the leases."""
        for state in states:
            if state.release:
                del self._held[state.installation_id]
            elif not state.as_written:
                self._held[state.installation_id].renew(now + self._settings.lease, state)
        for installation_id in settled.paused & self._held.keys():
            self._held[installation_id].stop(now)
        self._forget(settled.lost)

    def _is_fresh(self, lease: HeldLease, now: float) -> bool:
        """Whether it need not be renewed: requests may start under it long after this, too."""
        quarter = self._settings.lease / 4
        return lease.until - now > 3 * quarter and lease.outlasts(now + quarter, self._settings.request_timeout)

    def _is_ours(self, answer: Answer) -> bool:
        lease = self._held.get(answer.delivery.subject.installation_id)
        return lease is not None and lease.token == answer.token

    def _is_locked(self, answer: Answer, now: float) -> bool:
        return self._locked.has(answer.delivery.subject.installation_id, now)

    def _is_done(self, lease: HeldLease) -> bool:
        """Nothing is in flight, and nothing more can be sent, or others have waited longer."""
        if lease.in_flight or (lease.queue and lease.stopped_until is None):
            return False
        if lease.stopped_until is not None or not lease.more:
            return True
        return not lease.untried and (self._others_wait or (lease.probing and not lease.suspects))

    def _forget(self, lost: Set[str]) -> None:
        """Leases that are another's by now: what was planned under them is theirs."""
        for installation_id in lost:
            if (lease := self._held.pop(installation_id, None)) is not None:
                lease.drop_queue()
        if lost:
            self._report(LeaseLost(len(lost)))

    # stop ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

    def stop_idle(self) -> None:
        """While the host is out, nothing is held back from other dispatchers, and nothing is due under a lease that may expire."""
        for lease in self._held.values():
            if not lease.in_flight:
                lease.stop(self._clock())

    def drop_queues(self) -> None:
        """Forgets everything that is not sent yet."""
        for lease in self._held.values():
            lease.drop_queue()
