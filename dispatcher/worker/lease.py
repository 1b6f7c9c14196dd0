"""A lease that this worker holds on an installation: the deliveries it may send, and until when."""

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from dispatcher.policy.decision import Action, Decision, Policy
from dispatcher.policy.installation_breaker import InstallationBreaker
from dispatcher.policy.outcome import Outcome
from dispatcher.policy.rate_window import RateWindow
from dispatcher.settings.contradictions import LEASE_MARGIN_SECONDS
from dispatcher.store import Delivery, InstallationState, Leased


@dataclass(frozen=True, slots=True)
class Clock:
    """The database's clock as far as this worker knows it: two offsets that turn its monotonic seconds into epoch seconds.

    Use `behind` to decide whether a time has passed, `ahead` to record one. Both err on the safe side, so workers with different clock
    error never shorten a rate window.
    """

    behind: float
    """The smallest possible offset."""
    ahead: float
    """The largest possible offset."""


@dataclass(slots=True, eq=False)
class HeldLease:
    """A held lease with its queue. Times are monotonic seconds of this worker."""

    installation_id: str
    token: str
    until: float
    clock: Clock
    window: RateWindow | None
    breaker: InstallationBreaker
    suspects: int = 0
    """Deliveries that are still to be read one at a time: one of them may have killed a worker."""
    pause_reason: str | None = None
    paused_for: float | None = None
    queue: deque[Delivery] = field(default_factory=deque)
    held: set[str] = field(default_factory=set)
    """Keys of the subjects that are queued, in flight or not settled yet."""
    in_flight: int = 0
    more: bool = True
    """Whether more deliveries may be due than have been read."""
    pulled_at: float = -math.inf
    suspects_at: float = 0.0
    """The earliest time to read the next suspect."""
    stopped_until: float | None = None
    """Nothing is sent before this time; the lease will be given back."""
    in_rota: bool = False
    token_found: bool = False
    """Whether the token has just been looked up: one request may begin, even if the token may not be kept."""
    written: InstallationState | None = None
    """The state that its row holds."""

    @classmethod
    def of(cls, leased: Leased, until: float, clock: Clock, window: RateWindow | None) -> "HeldLease":
        """Creates the lease from a claimed row."""
        paused_for = None if leased.paused_for is None else leased.paused_for.total_seconds()
        lease = cls(
            leased.installation_id,
            leased.token,
            until,
            clock,
            window,
            InstallationBreaker(leased.failures, leased.faults),
            leased.suspects,
            leased.pause_reason,
            paused_for,
        )
        lease.breaker.limit = 1 if lease.one_at_a_time else None
        lease.written = InstallationState(
            leased.installation_id, leased.token, leased.rate_window, leased.failures, leased.faults, leased.suspects
        )
        return lease

    @property
    def is_paused(self) -> bool:
        """Whether the installation is paused; its requests are then probes."""
        return self.paused_for is not None

    @property
    def stopped_by_pause(self) -> bool:
        """Whether the installation was paused under this lease."""
        return self.is_paused and self.stopped_until is not None

    @property
    def probing(self) -> bool:
        """Whether requests only test if the installation works again."""
        return self.is_paused or self.breaker.is_open

    @property
    def is_calm(self) -> bool:
        """Whether a success changes nothing about the installation but its rate window."""
        return self.breaker.is_calm and not self.suspects and self.pause_reason is None and self.paused_for is None

    @property
    def one_at_a_time(self) -> bool:
        """Whether the installation's requests are sent one at a time."""
        return self.probing or self.suspects > 0

    @property
    def untried(self) -> bool:
        """Whether this lease follows a crash and nothing has been read under it yet."""
        return self.suspects > 0 and self.pulled_at == -math.inf

    def is_done(self, *, others_wait: bool) -> bool:
        """Whether to give the lease back: nothing is in flight, and nothing more can be sent or other installations have waited longer."""
        if self.in_flight or (self.queue and self.stopped_until is None):
            return False
        if self.stopped_until is not None or not self.more:
            return True
        return not self.untried and (others_wait or (self.probing and not self.suspects))

    def add(self, deliveries: Sequence[Delivery], limit: int, now: float) -> None:
        """Queues deliveries, except of subjects that are held already. If fewer than the `limit` were read, no more are due."""
        self.more = len(deliveries) >= limit
        self.pulled_at = now
        for delivery in deliveries:
            if delivery.subject_key not in self.held:
                self.held.add(delivery.subject_key)
                self.queue.append(delivery)

    def next(self, now: float, request_timeout: float) -> Delivery | None:
        """Starts a request and returns its delivery, if there is one and a request may start now."""
        if not self.queue or self.stopped_until is not None:
            return None
        return self.queue.popleft() if self.start(now, request_timeout) else None

    def start(self, now: float, request_timeout: float) -> bool:
        """Starts a request if the lease outlasts it and the limits allow it. Returns whether it did; then `end` must follow."""
        if not self.outlasts(now, request_timeout) or not self.breaker.allows(self.in_flight):
            return False
        if self.window is not None and not self.window.take(now + self.clock.behind):
            self.stop(now + self.window.wait(now + self.clock.behind))
            return False
        self.in_flight += 1
        return True

    def has_slot(self, now: float) -> bool:
        """Whether the rate window allows a request now. If not, stops the lease until it does."""
        wait = self.window.wait(now + self.clock.behind) if self.window is not None else 0.0
        if wait > 0:
            self.stop(now + wait)
        return wait <= 0

    def wants_suspect(self, now: float) -> bool:
        """Whether the next suspect may be read: the previous one has been settled, and a request may start now."""
        if self.stopped_until is not None or self.in_flight or self.held or now < self.suspects_at:
            return False
        return self.has_slot(now)

    def end(self, now: float, *, sent: bool) -> None:
        """Records that a request has ended, or was not `sent` after all."""
        self.in_flight -= 1
        if self.window is not None:
            self.window.end(now + self.clock.ahead, sent=sent)

    def record(self, outcome: Outcome, now: float, began: float) -> None:
        """Records the outcome of a request that began at `began`. After a stop, failures are to be expected and are not counted."""
        self.correct_window(outcome, now, began)
        self.suspects = max(0, self.suspects - outcome.made_a_request)
        self.breaker.record(outcome.kind, count_failures=self.stopped_until is None)

    def correct_window(self, outcome: Outcome, now: float, began: float) -> None:
        """Applies the limit that the answer to a request reports, if it does. The request began at `began`."""
        if self.window is not None and outcome.rate_remaining is not None and outcome.rate_reset is not None:
            began_by_window = began + self.clock.behind
            self.window.correct(outcome.rate_remaining, outcome.rate_reset, now + self.clock.ahead, began_by_window)

    def apply(self, decision: Decision, now: float, policy: Policy, random: Callable[[], float]) -> None:
        """Applies the decision about one delivery to the rest of the installation."""
        match decision.action:
            case Action.DELIVERED:
                self._recover()
            case Action.THROTTLE:
                self.stop(now + decision.delay)
            case Action.PAUSE:
                if self.pause_reason != decision.reason:
                    self.pause_reason, self.paused_for = decision.reason, 0.0
                self.stop(now)
            case Action.RETRY if self.probing:
                self.stop(now + self.breaker.probe_gap(policy, random))

    def _recover(self) -> None:
        self.pause_reason = self.paused_for = None
        if not self.suspects:
            self.breaker.recover()

    def outlasts(self, now: float, request_timeout: float) -> bool:
        """Whether a request that starts now ends before the lease does."""
        return self.until - now >= request_timeout + LEASE_MARGIN_SECONDS

    def stop(self, until: float) -> None:
        """Sends nothing more under this lease; the installation waits at least until the given time."""
        self.stopped_until = max(until, self.stopped_until or 0.0)
        self.drop_queue()

    def drop_queue(self) -> None:
        """Removes the deliveries that are not sent yet; in the database they are still due."""
        self.held.difference_update(delivery.subject_key for delivery in self.queue)
        self.queue.clear()

    def renew(self, until: float, written: InstallationState) -> None:
        """Records that this state was written, and that the lease now lasts until the given time."""
        self.until, self.written = until, written

    def state(self, now: float, *, release: bool, fresh: bool) -> InstallationState:
        """Returns the state to write to the installation's row. A `fresh` lease lasts long enough and need not be renewed."""
        state = InstallationState(
            self.installation_id,
            self.token,
            rate_window=self.window.stored(now + self.clock.behind, now + self.clock.ahead) if self.window else None,
            failures=self.breaker.failures,
            faults=self.breaker.faults,
            suspects=self.suspects,
            throttled_for=max(0.0, self.stopped_until - now) if self.stopped_until is not None else 0.0,
            release=release,
        )
        state.as_written = fresh and self.stopped_until is None and state == self.written
        return state
