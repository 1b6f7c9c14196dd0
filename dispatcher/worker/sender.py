"""Sends the deliveries queued under the worker's leases: installations take turns, and every answer is decided on immediately."""

import asyncio
from collections import deque
from collections.abc import Callable

from pydantic import SecretStr

from dispatcher.credentials.sources import Credentials
from dispatcher.database.errors import describe_error, summarize
from dispatcher.policy.breaker import Breaker
from dispatcher.policy.decision import DELIVERED, Action, Decision, PauseReason, Policy, decide
from dispatcher.policy.outcome import Outcome, OutcomeKind
from dispatcher.policy.rate_window import RateWindow
from dispatcher.settings.settings import Settings
from dispatcher.store import Answer, Delivery
from dispatcher.telemetry import Answered, BreakerTurned, InstallationPaused, InstallationResumed, Listener, StepFailed
from dispatcher.telemetry.tracing import delivery_spans
from dispatcher.vercel.client import Vercel
from dispatcher.worker.answers import Answers
from dispatcher.worker.lease import HeldLease
from dispatcher.worker.look_ups import LookUps, find_token


class Sender:
    """Keeps up to `concurrency` requests in flight and adds their outcomes to `answers`.

    `clock` returns monotonic seconds, `random` a number in [0, 1).
    """

    def __init__(
        self,
        vercel: Vercel,
        credentials: Credentials,
        settings: Settings,
        report: Listener,
        answers: Answers,
        clock: Callable[[], float],
        random: Callable[[], float],
    ) -> None:
        self._vercel = vercel
        self._credentials = credentials
        self._settings = settings
        self._report = report
        self._clock = clock
        self._random = random
        self._policy = Policy(
            settings.max_attempts,
            settings.backoff_base,
            settings.backoff_cap,
            settings.auth_grace,
            settings.disabled_grace,
        )
        overall = settings.global_rate_limit
        self._overall = RateWindow(overall.requests, overall.seconds) if overall else None
        self._breaker = Breaker(self._policy, random)
        self._rota: deque[HeldLease] = deque()
        self._in_flight: set[asyncio.Task[None]] = set()
        self._look_ups = LookUps(credentials, max(1, settings.concurrency // 2), self._looked_up)
        self._stopping = False
        self._span = delivery_spans()
        self._answers = answers
        self._unreported: list[Answer] = []
        self.ended = asyncio.Event()
        """Set when a request has ended; the worker clears it."""

    @property
    def outage(self) -> bool:
        """Whether the host's breaker is open."""
        return self._breaker.is_open

    @property
    def saturated(self) -> bool:
        """Whether the most requests allowed are in flight and others wait for their turn."""
        return self._is_full and bool(self._rota)

    @property
    def has_turns_left(self) -> bool:
        """Whether a queued delivery needs only `wait` to pass: more requests may be in flight."""
        return not self._is_full and not self._stopping and bool(self._rota)

    @property
    def _is_full(self) -> bool:
        return len(self._in_flight) >= self._settings.concurrency

    def wait(self) -> float:
        """Returns the seconds until a request may start, for any installation."""
        now = self._clock()
        return max(self._breaker.wait(now), self._overall.wait(now) if self._overall is not None else 0.0)

    def queue(self, lease: HeldLease) -> None:
        """Adds a lease with something to send to the rota, unless its token is being looked up: then it is added after that."""
        if lease.queue and not lease.in_rota and lease not in self._look_ups:
            lease.in_rota = True
            self._rota.append(lease)

    def send(self) -> None:
        """Begins as many requests as are allowed; each of them, when it ends, begins the next."""
        waiting = sum(len(lease.queue) for lease in self._rota)
        for _ in range(min(self._settings.concurrency - len(self._in_flight), waiting)):
            sending = asyncio.create_task(self._send_while_any())
            self._in_flight.add(sending)
            sending.add_done_callback(self._ended)

    def _ended(self, sending: asyncio.Task[None]) -> None:
        self._in_flight.discard(sending)
        if not sending.cancelled() and (error := sending.exception()) is not None:
            self._report(StepFailed("send", summarize(error), describe_error(error)))
        if not self._in_flight:
            self.report_answers()  # not only at the end of a tick, which may wait for a locked table

    def begin_stop(self) -> None:
        """Begins no more requests, and cancels look-ups."""
        self._stopping = True
        self._look_ups.end()

    def report_answers(self) -> None:
        """Reports the answers since the last time together."""
        if self._unreported:
            answers, self._unreported = self._unreported, []
            self._report(Answered(answers))

    async def finish(self, grace: float) -> None:
        """Waits up to `grace` seconds for requests in flight and cancels the rest, which will be sent again."""
        if not self._in_flight:
            return
        _, late = await asyncio.wait(self._in_flight, timeout=grace)
        for sending in late:
            sending.cancel()
        await asyncio.gather(*late, return_exceptions=True)

    async def _send_while_any(self) -> None:
        while (picked := self._pick()) is not None:
            await self._attempt(*picked)

    def _pick(self) -> tuple[HeldLease, Delivery, float] | None:
        """Starts the next request in turn and returns it with its start time: one delivery per installation, then the first one again."""
        now = self._clock()
        while self._rota and not self._stopping and self.wait() <= 0:
            lease = self._rota.popleft()
            if lease.queue and not (lease.token_found or self._credentials.is_at_hand(lease.installation_id)):
                lease.in_rota = False
                self._look_ups.begin(lease)
                continue
            lease.token_found = False
            delivery = lease.next(now, self._settings.request_timeout)
            lease.in_rota = bool(lease.queue) and delivery is not None
            if lease.in_rota:
                self._rota.append(lease)
            if delivery is not None:
                self._start(now)
                return lease, delivery, now
        return None

    def _start(self, now: float) -> None:
        self._breaker.start(now)
        if self._overall is not None:
            self._overall.take(now)

    async def _attempt(self, lease: HeldLease, delivery: Delivery, began: float) -> None:
        token, outcome, sent = await self._request(lease, delivery)
        if outcome is not None and outcome.all_well and lease.is_calm and self._breaker.is_calm:
            self._end_well(lease, delivery, outcome, began)
        else:
            self._end(lease, delivery, outcome, sent=sent)
            await self._follow_up(lease, delivery, token, outcome, began)
        self.queue(lease)  # deliveries that waited for this answer may be sent now
        self.ended.set()

    def _end_well(self, lease: HeldLease, delivery: Delivery, outcome: Outcome, began: float) -> None:
        """Does what `_end` and `_follow_up` do after a success while the lease and the host's breaker are calm: nearly every request ends
        so.
        """
        now = self._clock()
        lease.end(now, sent=True)
        lease.correct_window(outcome, now, began)
        if self._overall is not None:
            self._overall.end(now, sent=True)
        self._breaker.end_well(now)
        self._answer(lease, delivery, outcome, DELIVERED)

    async def _follow_up(
        self, lease: HeldLease, delivery: Delivery, token: SecretStr | None, outcome: Outcome | None, began: float
    ) -> None:
        """Draws the conclusions from a request that has ended, after another one with a new token if this one was refused."""
        if outcome is not None and outcome.kind is OutcomeKind.UNAUTHORIZED and not lease.stopped_by_pause:
            outcome = await self._read_again(lease, delivery, token, outcome)
        if outcome is None:
            lease.held.discard(delivery.subject_key)
        else:
            self._conclude(lease, delivery, outcome, began)

    async def _read_again(
        self, lease: HeldLease, delivery: Delivery, refused: SecretStr | None, outcome: Outcome
    ) -> Outcome | None:
        """After a refusal, reads the credential again and sends the delivery once more, if a request may start now.

        Otherwise returns the refusal if the token is still the same, or None if the delivery's next turn will use another token.
        """
        now = self._clock()
        if lease.stopped_until is None and self.wait() <= 0 and lease.start(now, self._settings.request_timeout):
            self._start(now)
            self._answer(lease, delivery, outcome, Decision(Action.REFRESH))
            _, repeated, sent = await self._request(lease, delivery, refused)
            self._end(lease, delivery, repeated, sent=sent)
            return repeated
        token = await find_token(self._credentials, lease.installation_id, refused)
        if isinstance(token, Outcome):
            return token
        if token == refused:
            return outcome
        self._answer(lease, delivery, outcome, Decision(Action.REFRESH))
        return None

    def _looked_up(self, lease: HeldLease, failure: Outcome | None) -> None:
        """Lets the lease's requests begin. A `failure` becomes the outcome of its next delivery, and so decides about the installation."""
        now = self._clock()
        lease.token_found = failure is None
        if failure is not None and (delivery := lease.next(now, self._settings.request_timeout)) is not None:
            lease.end(now, sent=False)
            self._conclude(lease, delivery, failure, now)
            self.ended.set()
        self.queue(lease)
        self.send()

    async def _request(
        self, lease: HeldLease, delivery: Delivery, refused: SecretStr | None = None
    ) -> tuple[SecretStr | None, Outcome | None, bool]:
        """Sends a request that has been started, and that the caller must end unless this raises.

        Returns its token, its outcome, and whether it was sent. It has no outcome if the lease would now end before it does.
        """
        sent = False
        try:
            token = await find_token(self._credentials, lease.installation_id, refused)
            if isinstance(token, Outcome):
                return None, token, False
            if not lease.outlasts(self._clock(), self._settings.request_timeout):
                return token, None, False
            sent = True
            return token, await self._send(delivery, token), True
        except BaseException:
            self._end(lease, delivery, None, sent=sent)
            raise

    async def _send(self, delivery: Delivery, token: SecretStr) -> Outcome:
        subject = delivery.subject
        body = subject.body(product_id=delivery.product_id, billing_plan_id=delivery.billing_plan_id)
        if self._span is None:
            return await self._vercel.send(subject.installation_id, body, token)
        with self._span(subject, delivery.events, delivery.traceparent) as conclude:
            outcome = await self._vercel.send(subject.installation_id, body, token)
            conclude(outcome)
        return outcome

    def _end(self, lease: HeldLease, delivery: Delivery, outcome: Outcome | None, *, sent: bool) -> None:
        now, was_open = self._clock(), self._breaker.is_open
        lease.end(now, sent=sent)
        if self._overall is not None:
            self._overall.end(now, sent=sent)
        self._breaker.end(outcome, delivery.subject_key, now)
        if self._breaker.is_open is not was_open:
            self._report(BreakerTurned(self._breaker.is_open))

    def _conclude(self, lease: HeldLease, delivery: Delivery, outcome: Outcome, began: float) -> None:
        was_paused, was_open = lease.is_paused, lease.breaker.is_open
        lease.record(outcome, self._clock(), began)
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
        lease.apply(decision, self._clock(), self._policy, self._random)
        self._answer(lease, delivery, outcome, decision)
        if lease.breaker.is_open is not was_open:
            self._report(BreakerTurned(lease.breaker.is_open, lease.installation_id))
        if lease.is_paused and not was_paused and isinstance(decision.reason, PauseReason):
            self._report(InstallationPaused(lease.installation_id, decision.reason))
        if was_paused and not lease.is_paused:
            self._report(InstallationResumed(lease.installation_id))

    def _answer(self, lease: HeldLease, delivery: Delivery, outcome: Outcome, decision: Decision) -> None:
        now = self._clock()
        lag = now + lease.clock.ahead - delivery.first_created_at.timestamp()
        answer = Answer(delivery, lease.token, outcome, decision, answered_at=now, lag=lag)
        self._answers.add(answer)
        self._unreported.append(answer)
