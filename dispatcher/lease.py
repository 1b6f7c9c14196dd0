"""A lease that this worker holds on an installation: what it may send for it, and until when."""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from dispatcher.policy import RateWindow
from dispatcher.store import Delivery, InstallationState, Leased

MARGIN = 1.0
"""Seconds that a lease must outlast the deadline of a request that is started under it."""


@dataclass(slots=True, eq=False)
class HeldLease:
    """Times are monotonic seconds of this worker; `clock_offset` added to one gives the database's epoch seconds."""

    installation_id: str
    token: str
    until: float
    clock_offset: float
    window: RateWindow | None
    failures: int
    paused_for: float | None
    queue: deque[Delivery] = field(default_factory=deque)
    held: set[str] = field(default_factory=set)
    """Subjects that are queued, in flight or not settled yet."""
    in_flight: int = 0
    more: bool = True
    """Whether more deliveries may be due than were read."""
    pulled_at: float = 0.0
    stopped_until: float | None = None
    """Nothing is sent before; the lease is given back."""
    in_rota: bool = False

    @classmethod
    def of(cls, leased: Leased, until: float, clock_offset: float, window: RateWindow | None) -> "HeldLease":
        """From what the claim found."""
        paused_for = None if leased.paused_for is None else leased.paused_for.total_seconds()
        return cls(leased.installation_id, leased.token, until, clock_offset, window, leased.failures, paused_for)

    @property
    def probing(self) -> bool:
        """A paused installation is sent one request at a time."""
        return self.paused_for is not None

    def add(self, deliveries: Iterable[Delivery], asked: int, now: float) -> None:
        """Queues what was read, except the subjects that are here already. Fewer than were asked for: no more are due."""
        found = list(deliveries)
        self.more = len(found) >= asked
        self.pulled_at = now
        for delivery in found:
            if delivery.subject_key not in self.held:
                self.held.add(delivery.subject_key)
                self.queue.append(delivery)

    def next(self, now: float, request_timeout: float) -> Delivery | None:
        """The next delivery to send, if one may be sent now; then it counts in the rate window."""
        if not self.queue or self.stopped_until is not None or (self.probing and self.in_flight):
            return None
        if not self.outlasts(now, request_timeout):
            return None
        if self.window is not None and not self.window.take(now + self.clock_offset):
            self.stop(now + self.window.wait(now + self.clock_offset))
            return None
        self.in_flight += 1
        return self.queue.popleft()

    def outlasts(self, now: float, request_timeout: float) -> bool:
        """Whether a request that starts now ends while the lease is ours."""
        return self.until - now >= request_timeout + MARGIN

    def stop(self, until: float) -> None:
        """Sends nothing more under this lease; the installation waits until then at least."""
        self.stopped_until = max(until, self.stopped_until or 0.0)
        self.drop_queue()

    def drop_queue(self) -> None:
        """Forgets what is not sent yet: it is still due in the database."""
        self.held.difference_update(delivery.subject_key for delivery in self.queue)
        self.queue.clear()

    def state(self, now: float, *, release: bool) -> InstallationState:
        """What the installation's row shall say."""
        return InstallationState(
            self.installation_id,
            self.token,
            rate_window=self.window.stored(now + self.clock_offset) if self.window else None,
            failures=self.failures,
            throttled_for=max(0.0, self.stopped_until - now) if self.stopped_until is not None else 0.0,
            release=release,
        )
