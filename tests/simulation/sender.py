"""One dispatcher's requests: `dispatcher/worker/sender.py` with calls of the simulated clock in place of tasks.

Every decision is the dispatcher's own: the breakers, the rate window, the backoff, and what a lease allows.
"""

from collections import deque
from collections.abc import Callable

from dispatcher.policy.breaker import Breaker
from dispatcher.policy.decision import DELIVERED, Action, Decision, Policy, decide
from dispatcher.policy.outcome import Outcome, OutcomeKind
from dispatcher.settings.settings import Settings
from dispatcher.store import Answer, Delivery
from dispatcher.worker.lease import HeldLease
from tests.simulation.clock import Clock
from tests.simulation.costs import LOOK_UP
from tests.simulation.server import Server
from tests.simulation.vercel import Tokens, Vercel


class Sender:
    """`tokens`: None if there is one token for all installations. `ended` is called when a request has ended."""

    def __init__(
        self,
        clock: Clock,
        server: Server,
        vercel: Vercel,
        tokens: Tokens | None,
        settings: Settings,
        random: Callable[[], float],
        ended: Callable[[], None],
    ) -> None:
        self._clock = clock
        self._server = server
        self._vercel = vercel
        self._tokens = tokens
        self._concurrency = settings.concurrency
        self._timeout = settings.request_timeout
        self._policy = Policy(
            settings.max_attempts,
            settings.backoff_base,
            settings.backoff_cap,
            settings.auth_grace,
            settings.disabled_grace,
        )
        self._random = random
        self._ended = ended
        self._breaker = Breaker(self._policy, random)
        self._rota: deque[HeldLease] = deque()
        self._under_way = 0
        """Requests in flight, with the look-ups that belong to them."""
        self._looking_up: set[HeldLease] = set()
        self._to_look_up: deque[HeldLease] = deque()
        self._look_ups = 0
        self.answers: list[Answer] = []
        self.queued = 0
        """Deliveries in the queues of all leases."""

    @property
    def outage(self) -> bool:
        return self._breaker.is_open

    @property
    def saturated(self) -> bool:
        return self._is_full and bool(self._rota)

    @property
    def has_turns_left(self) -> bool:
        return not self._is_full and bool(self._rota)

    @property
    def _is_full(self) -> bool:
        return self._under_way >= self._concurrency

    def wait(self) -> float:
        """Returns the seconds until a request may start."""
        return self._breaker.wait(self._clock.now)

    def queue(self, lease: HeldLease) -> None:
        """Adds a lease with something to send to the rota."""
        if lease.queue and not lease.in_rota and lease not in self._looking_up:
            lease.in_rota = True
            self._rota.append(lease)

    def send(self) -> None:
        """Begins as many requests as are allowed."""
        while not self._is_full and (picked := self._pick()) is not None:
            self._under_way += 1
            self._request(*picked)

    def _pick(self) -> tuple[HeldLease, Delivery] | None:
        now = self._clock.now
        while self._rota and self._breaker.wait(now) <= 0:
            lease = self._rota.popleft()
            if lease.queue and not (lease.token_found or self._is_at_hand(lease)):
                lease.in_rota = False
                self._begin_look_up(lease)
                continue
            lease.token_found = False
            before = len(lease.queue)
            delivery = lease.next(now, self._timeout)
            self.queued += len(lease.queue) - before
            lease.in_rota = bool(lease.queue) and delivery is not None
            if lease.in_rota:
                self._rota.append(lease)
            if delivery is not None:
                self._breaker.start(now)
                return lease, delivery
        return None

    def _request(self, lease: HeldLease, delivery: Delivery) -> None:
        token = 0
        if self._tokens is not None:
            kept = self._tokens.at_hand(lease.installation_id)
            token = self._tokens.find(lease.installation_id) if kept is None else kept
        seconds, outcome = self._vercel.request(lease.installation_id, token)
        now = self._clock.now
        self._clock.call(now + seconds, self._conclude_request, lease, delivery, outcome, now, token)

    def _conclude_request(
        self, lease: HeldLease, delivery: Delivery, outcome: Outcome, began: float, token: int
    ) -> None:
        now = self._clock.now
        if outcome.all_well and lease.is_calm and self._breaker.is_calm:
            lease.end(now, sent=True)
            lease.correct_window(outcome, now, began)
            self._breaker.end_well(now)
            self._answer(lease, delivery, outcome, DELIVERED)
        else:
            self._end(lease, delivery, outcome)
            if outcome.kind is OutcomeKind.UNAUTHORIZED and not lease.stopped_by_pause and self._tokens is not None:
                self._read_again(lease, delivery, outcome, began, token)
                return
            self._conclude(lease, delivery, outcome, began)
        self._go_on(lease)

    def _go_on(self, lease: HeldLease) -> None:
        """Ends one request and begins the next in turn."""
        self.queue(lease)
        self._ended()
        picked = self._pick()
        if picked is None:
            self._under_way -= 1
        else:
            self._request(*picked)

    def _end(self, lease: HeldLease, delivery: Delivery, outcome: Outcome) -> None:
        now = self._clock.now
        lease.end(now, sent=True)
        self._breaker.end(outcome, delivery.subject_key, now)

    def _conclude(self, lease: HeldLease, delivery: Delivery, outcome: Outcome, began: float) -> None:
        now = self._clock.now
        lease.record(outcome, now, began)
        decision = decide(
            outcome,
            attempts=delivery.attempts,
            gone=delivery.gone,
            failures=lease.breaker.failures,
            pause_reason=lease.pause_reason,
            paused_for=lease.paused_for,
            outage=self._breaker.is_open,
            suspected=self._breaker.is_suspected,
            policy=self._policy,
            random=self._random,
        )
        before = len(lease.queue)
        lease.apply(decision, now, self._policy, self._random)
        self.queued += len(lease.queue) - before
        self._answer(lease, delivery, outcome, decision)

    def _answer(self, lease: HeldLease, delivery: Delivery, outcome: Outcome, decision: Decision) -> None:
        self.answers.append(Answer(delivery, lease.token, outcome, decision, answered_at=self._clock.now))

    # tokens ───────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _is_at_hand(self, lease: HeldLease) -> bool:
        return self._tokens is None or self._tokens.at_hand(lease.installation_id) is not None

    def _begin_look_up(self, lease: HeldLease) -> None:
        self._looking_up.add(lease)
        self._to_look_up.append(lease)
        self._start_look_ups()

    def _start_look_ups(self) -> None:
        while self._to_look_up and self._look_ups < max(1, self._concurrency // 2):
            self._look_ups += 1
            self._clock.call(self._server.run("look-up", LOOK_UP), self._looked_up, self._to_look_up.popleft())

    def _looked_up(self, lease: HeldLease) -> None:
        assert self._tokens is not None
        self._tokens.find(lease.installation_id)
        self._look_ups -= 1
        self._looking_up.discard(lease)
        self._start_look_ups()
        lease.token_found = True
        self.queue(lease)
        self.send()

    def _read_again(self, lease: HeldLease, delivery: Delivery, outcome: Outcome, began: float, refused: int) -> None:
        """Looks the token up again; then sends the delivery once more if a request may start now."""
        now, before = self._clock.now, len(lease.queue)
        sends = lease.stopped_until is None and self._breaker.wait(now) <= 0 and lease.start(now, self._timeout)
        self.queued += len(lease.queue) - before
        if sends:
            self._breaker.start(now)
            self._answer(lease, delivery, outcome, Decision(Action.REFRESH))
        found_at = self._server.run("look-up", LOOK_UP)
        self._clock.call(found_at, self._found_again, lease, delivery, outcome, began, refused, sends)

    def _found_again(
        self, lease: HeldLease, delivery: Delivery, outcome: Outcome, began: float, refused: int, sends: bool
    ) -> None:
        assert self._tokens is not None
        token, now = self._tokens.find(lease.installation_id), self._clock.now
        if sends:
            seconds, repeated = self._vercel.request(lease.installation_id, token)
            self._clock.call(now + seconds, self._conclude_repeated, lease, delivery, repeated, now)
            return
        if token == refused:
            self._conclude(lease, delivery, outcome, began)
        else:
            self._answer(lease, delivery, outcome, Decision(Action.REFRESH))
            lease.held.discard(delivery.subject_key)
        self._go_on(lease)

    def _conclude_repeated(self, lease: HeldLease, delivery: Delivery, outcome: Outcome, began: float) -> None:
        self._end(lease, delivery, outcome)
        self._conclude(lease, delivery, outcome, began)
        self._go_on(lease)
