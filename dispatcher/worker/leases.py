"""The leases that a worker holds: claims and renews them, reads deliveries for them, and drops the lost ones."""

from collections.abc import Callable, Iterable, Sequence, Set
from datetime import timedelta

from dispatcher import store
from dispatcher.policy.rate_window import RateWindow
from dispatcher.settings.settings import Settings
from dispatcher.store import Delivery
from dispatcher.telemetry import CrashBuried, LeaseLost, Listener
from dispatcher.worker.database_thread import DatabaseThread
from dispatcher.worker.lease import Clock, HeldLease
from dispatcher.worker.locked_rows import LockedRows
from dispatcher.worker.low_water import LowWaterMark
from dispatcher.worker.pace import Pace
from dispatcher.worker.sender import Sender

PULL_SECONDS = 1.0
"""Time between two reads for a held installation with requests in flight, for deliveries that this worker did not collect itself, such
as retries."""


class Leases:
    """Fills the sender's queues. `name` identifies this worker as the holder; `clock` returns monotonic seconds."""

    def __init__(
        self,
        thread: DatabaseThread,
        sender: Sender,
        settings: Settings,
        pace: Pace,
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
        self.held: dict[str, HeldLease] = {}
        self.locked = LockedRows()
        self.others_wait = False
        """Whether the last claim left installations that are due."""
        self.due_low_water = LowWaterMark(store.LONG_AGO, pace.sweep_seconds)

    def __len__(self) -> int:
        return len(self.held)

    @property
    def in_flight(self) -> int:
        """Requests in flight under all leases."""
        return sum(lease.in_flight for lease in self.held.values())

    @property
    def any_expired(self) -> bool:
        """Whether a lease has expired, for example because the database could not be reached."""
        now = self._clock()
        return any(lease.until <= now for lease in self.held.values())

    # claim ────────────────────────────────────────────────────────────────────────────────────────────────────────────

    async def claim(self) -> bool:
        """Claims installations for which something is due. Returns whether more may be due."""
        if self.has_plenty() or self._untried() >= self._settings.concurrency:
            return False
        began, probing = self._clock(), self._sender.outage
        claimed = await self._thread.run(
            store.claim,
            installations=1 if probing else self._thread.database.dialect.max_claimed,
            deliveries=1 if probing else self._buffer,
            lease=self._lease_time,
            leased_by=self._name,
            suspects=self._settings.concurrency,
            due_low_water=self.due_low_water.at(began),
        )
        clock = Clock(claimed.at.timestamp() - self._clock(), claimed.at.timestamp() - began)
        limit = store.fair_share(self._buffer, len(claimed.leased))
        for leased in claimed.leased:
            lease = HeldLease.of(leased, began + self._settings.lease, clock, self._window(leased.rate_window))
            self.held[leased.installation_id] = lease
            if not lease.suspects:
                self._queue(lease, leased.deliveries, limit)
        self.others_wait = claimed.full
        if not claimed.full:
            self.due_low_water.swept(began)
            self.due_low_water.passed(began, claimed.at)
        return claimed.full

    def _untried(self) -> int:
        return sum(lease.untried for lease in self.held.values())

    def _window(self, stored: str | None) -> RateWindow | None:
        limit = self._settings.rate_limit
        if limit is None:
            return None
        try:
            return RateWindow(limit.requests, limit.seconds, stored)
        except ValueError:  # somebody changed the row; an error here would leave a claimed lease that no worker uses
            return RateWindow(limit.requests, limit.seconds)

    def _queue(self, lease: HeldLease, deliveries: Sequence[Delivery], limit: int) -> None:
        lease.add(deliveries, limit, self._clock())
        self._sender.queue(lease)

    async def pull(self) -> None:
        """Renews leases that end soon, and reads more deliveries for installations that can send more."""
        await self._renew()
        await self._pull_suspects()
        now, plenty = self._clock(), self.has_plenty()
        wanting = [
            lease
            for lease in self.held.values()
            if (not plenty or self._is_short(lease, now))  # first, because it is quick: mostly, there is plenty
            and self._wants_more(lease, now)
            and not self.locked.has(lease.installation_id, now)
        ]
        if not wanting:
            return
        limit = store.fair_share(self._buffer, len(wanting)) + max(len(lease.held) for lease in wanting)
        tokens = {lease.installation_id: lease.token for lease in wanting}
        pulled = await self._thread.run(store.pull, tokens, limit, self._lease_time)
        for lease in self._renewed(wanting, pulled.deliveries.keys(), pulled.locked, now):
            self._queue(lease, pulled.deliveries[lease.installation_id], limit)

    def _renewed(
        self, leases: Sequence[HeldLease], ours: Set[str], locked: Set[str], now: float
    ) -> Iterable[HeldLease]:
        """Returns the leases whose rows were found to be `ours`, as renewed. The others are `locked` by somebody, or lost.

        A collection beside this one may have dropped some of them meanwhile.
        """
        self.locked.note(locked, now)
        held = [lease for lease in leases if lease.installation_id in self.held]
        self.forget({lease.installation_id for lease in held} - ours - locked)
        renewed = [lease for lease in held if lease.installation_id in ours]
        for lease in renewed:
            lease.until = now + self._settings.lease
        return renewed

    def expect_more(self, installation_ids: Set[str]) -> None:
        """Makes the held leases of these installations read again, except those that probe: events were collected for them."""
        for installation_id in self.held.keys() & installation_ids:
            lease = self.held[installation_id]
            lease.more = lease.more or not lease.probing

    async def _renew(self) -> None:
        """Renews leases that send one request at a time: they wait for their turn and need no further deliveries."""
        now = self._clock()
        short = [
            lease
            for lease in self.held.values()
            if self._is_short(lease, now) and lease.one_at_a_time and not self.locked.has(lease.installation_id, now)
        ]
        if not short:
            return
        tokens = {lease.installation_id: lease.token for lease in short}
        pulled = await self._thread.run(store.renew, tokens, self._lease_time)
        for lease in self._renewed(short, pulled.deliveries.keys(), pulled.locked, now):
            self._sender.queue(lease)

    async def _pull_suspects(self) -> None:
        """After a crash, reads the next delivery of each installation once the previous one has been settled."""
        now, concurrency = self._clock(), self._settings.concurrency
        suspected = [lease for lease in self.held.values() if lease.suspects]
        under_way = sum(bool(lease.held) for lease in suspected)
        ready = [
            lease for lease in suspected if lease.wants_suspect(now) and not self.locked.has(lease.installation_id, now)
        ][: max(0, concurrency - under_way)]
        if not ready or self._sender.wait() > 0:
            return
        tokens = {lease.installation_id: lease.token for lease in ready}
        pulled = await self._thread.run(
            store.pull_suspects,
            tokens,
            self._lease_time,
            limit=concurrency,
            under_way=under_way,
            max_attempts=self._settings.max_attempts,
        )
        first = {delivery.subject.installation_id: delivery for delivery in pulled.deliveries}
        for lease in self._renewed(ready, pulled.ours, pulled.locked, now):
            lease.suspects_at = now + self._settings.poll_interval
            lease.more = lease.installation_id in pulled.due
            if lease.installation_id in first:
                lease.suspects_at = now
                self._queue(lease, [first[lease.installation_id]], 1)
        if pulled.buried:
            self._report(CrashBuried(pulled.buried))

    def _is_short(self, lease: HeldLease, now: float) -> bool:
        return lease.stopped_until is None and lease.until - now < self._settings.lease / 2

    def has_plenty(self) -> bool:
        """Whether enough is queued for now. A claim or pull costs about the same for a few deliveries as for many, so they can wait."""
        return sum(len(lease.queue) for lease in self.held.values()) > self._buffer // 4

    def _wants_more(self, lease: HeldLease, now: float) -> bool:
        if lease.stopped_until is not None or lease.one_at_a_time or self._sender.outage:
            return False
        if self._is_short(lease, now):
            return True
        if len(lease.queue) > self._settings.concurrency:
            return False
        if lease.more:
            return bool(lease.in_flight) or not self.others_wait
        return bool(lease.in_flight) and now - lease.pulled_at >= max(PULL_SECONDS, self._settings.poll_interval)

    def forget(self, lost: Set[str]) -> None:
        """Drops leases that another dispatcher has taken over, and the deliveries queued under them."""
        for installation_id in lost:
            self.drop(installation_id)
        if lost:
            self._report(LeaseLost(len(lost)))

    def drop(self, installation_id: str) -> None:
        """Drops a lease that is not in the database any more, if it is held. Answers to its requests in flight will be ignored."""
        if (lease := self.held.pop(installation_id, None)) is not None:
            lease.drop_queue()

    # stop ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

    def stop_idle(self) -> None:
        """During an outage, stops the leases without requests in flight, to be given back: another dispatcher may reach the host."""
        for lease in self.held.values():
            if not lease.in_flight:
                lease.stop(self._clock())

    def drop_queues(self) -> None:
        """Removes all deliveries that are not sent yet."""
        for lease in self.held.values():
            lease.drop_queue()
