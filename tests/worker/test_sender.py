"""The order of requests, and the effect of answers on installations, tokens and limits: without a database, by the test's clock."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from pydantic import SecretStr

from dispatcher.credentials.bearer_token import CredentialsUnavailable, NoCredential
from dispatcher.outbox.events import Subject
from dispatcher.policy.breaker import FAULTS_TO_OPEN
from dispatcher.policy.decision import Action, PauseReason
from dispatcher.policy.installation_breaker import BREAKER_FAULTS
from dispatcher.policy.outcome import OutcomeKind
from dispatcher.policy.rate_window import RateLimit, RateWindow
from dispatcher.settings.contradictions import LEASE_MARGIN_SECONDS
from dispatcher.settings.settings import Settings
from dispatcher.store import Delivery, Leased
from dispatcher.telemetry import (
    Answered,
    BreakerTurned,
    InstallationPaused,
    InstallationResumed,
    Report,
    StepFailed,
)
from dispatcher.transport import Reply, Request
from dispatcher.vercel.client import Vercel
from dispatcher.worker.answers import Answers
from dispatcher.worker.lease import Clock, HeldLease
from dispatcher.worker.pace import STANDARD
from dispatcher.worker.sender import Sender
from tests.worker.conftest import DEADLINE_SECONDS

EPOCH_SECONDS = 1_700_000_000.0
"""The database's clock is this far ahead of the test's."""


def reply(status: int) -> Reply:
    return Reply(status, {}, b"")


class Bench:
    """A sender with a transport whose requests wait for their `turns` and get their reply from `answer`. `requests` lists their resources.

    It is also the source of tokens: `find` returns them, and they are at hand unless `keeps` is False.
    """

    def __init__(self, settings: Settings) -> None:
        self.now = 0.0
        self.settings = settings
        self.reports: list[Report] = []
        self.requests: list[str] = []
        self.sent_with: list[str] = []
        self.cancelled: list[str] = []
        self.looked_up: list[str] = []
        self.keeps = True
        self.turns = asyncio.Semaphore(1_000)
        self.answer: Callable[[str], Reply] = lambda _resource: reply(201)
        self.find: Callable[[str, SecretStr | None], Awaitable[SecretStr]] = self._find
        vercel = Vercel(
            "https://vercel.test",
            self,
            settings.request_timeout,
            clock=lambda: self.now,
            wall_clock=lambda: EPOCH_SECONDS + self.now,
        )
        self.answers = Answers(STANDARD.max_batch_characters)
        self.sender = Sender(vercel, self, settings, self.reports.append, self.answers, lambda: self.now, lambda: 0.5)

    def is_at_hand(self, _installation_id: str) -> bool:
        return self.keeps

    async def token(self, installation_id: str, *, refused: SecretStr | None = None) -> SecretStr:
        self.looked_up.append(installation_id)
        return await self.find(installation_id, refused)

    async def _find(self, _installation_id: str, refused: SecretStr | None) -> SecretStr:
        return SecretStr("t0ken" if refused is None else "new")

    async def exchange(self, request: Request) -> Reply:
        resource = str(json.loads(request.body)["event"]["resourceId"])
        self.requests.append(resource)
        self.sent_with.append(request.headers["authorization"].removeprefix("Bearer "))
        try:
            await self.turns.acquire()
        except asyncio.CancelledError:
            self.cancelled.append(resource)
            raise
        return self.answer(resource)

    async def aclose(self) -> None:
        pass

    def hold(self) -> None:
        """Holds all answers back until they are released."""
        self.turns = asyncio.Semaphore(0)

    def release(self, requests: int = 1) -> None:
        for _ in range(requests):
            self.turns.release()

    def lease(
        self,
        installation_id: str,
        *resources: str,
        faults: int = 0,
        paused: str | None = None,
        window: RateWindow | None = None,
    ) -> HeldLease:
        """Returns a lease with these deliveries. The sender sees it only after `queue`."""
        paused_for = None if paused is None else datetime.resolution
        leased = Leased(installation_id, "lease", (), None, faults, faults, 0, paused, paused_for)
        lease = HeldLease.of(leased, self.settings.lease, Clock(EPOCH_SECONDS, EPOCH_SECONDS), window)
        self.fill(lease, *resources)
        return lease

    def fill(self, lease: HeldLease, *resources: str) -> None:
        """Adds further deliveries to the lease."""
        first = datetime.fromtimestamp(EPOCH_SECONDS - 7.0, UTC)
        subjects = [Subject(lease.installation_id, "resource.updated", resource) for resource in resources]
        deliveries = [Delivery(str(one), one, None, None, 3, 1, 3, first, "v1", 4, None) for one in subjects]
        lease.add(deliveries, len(deliveries), self.now)

    def queue(self, *leases: HeldLease) -> None:
        for lease in leases:
            self.sender.queue(lease)

    async def send(self) -> None:
        """Begins the allowed requests, and returns when nothing more happens without the test."""
        self.sender.send()
        await self.go_on()

    async def go_on(self) -> None:
        for _ in range(100):
            await asyncio.sleep(0)

    def reported(self, kind: type[Report]) -> list[Report]:
        return [report for report in self.reports if isinstance(report, kind)]

    def is_saturated(self) -> bool:
        return self.sender.saturated

    def has_turns_left(self) -> bool:
        return self.sender.has_turns_left

    def is_out(self) -> bool:
        return self.sender.outage

    @property
    def decisions(self) -> list[Action]:
        """The decisions on the answers that wait to be settled."""
        return [answer.decision.action for answer in self.answers]


@pytest.fixture
def settings() -> Settings:
    return Settings(vercel_token=SecretStr("t0ken"), concurrency=2)


@pytest.fixture
async def bench(settings: Settings) -> AsyncIterator[Bench]:
    """A bench that fails the test if the event loop reported an error."""
    errors: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, error: errors.append(error))
    made = Bench(settings)
    yield made
    made.sender.begin_stop()
    await made.sender.finish(0)
    assert errors == []


ONE = pytest.mark.parametrize("settings", [Settings(vercel_token=SecretStr("t0ken"), concurrency=1)])


# turns ────────────────────────────────────────────────────────────────────────────────────────────────────────────────


@ONE
async def test_an_installation_has_one_place_in_the_rota_however_often_it_is_queued(bench: Bench) -> None:
    a, b = bench.lease("icfg_a", "a1", "a2", "a3"), bench.lease("icfg_b", "b1", "b2")
    bench.queue(a, a, b, a)
    await bench.send()
    assert bench.requests == ["a1", "b1", "a2", "b2", "a3"]


async def test_an_installation_with_one_request_at_a_time_continues_after_each_answer(bench: Bench) -> None:
    bench.hold()
    bench.answer = lambda _resource: reply(400)
    bench.queue(bench.lease("icfg_1", "db_1", "db_2", "db_3", faults=BREAKER_FAULTS))
    await bench.send()
    for number in (1, 2, 3):
        assert bench.requests == ["db_1", "db_2", "db_3"][:number]
        bench.release()
        await bench.go_on()


async def test_sending_again_does_not_exceed_the_allowed_requests_in_flight(bench: Bench) -> None:
    bench.hold()
    bench.queue(bench.lease("icfg_1", "db_1", "db_2", "db_3", "db_4"))
    for _ in range(3):
        await bench.send()
    assert bench.requests == ["db_1", "db_2"]
    bench.release(2)
    await bench.go_on()
    assert bench.requests == ["db_1", "db_2", "db_3", "db_4"]


async def test_it_is_saturated_while_deliveries_wait_and_the_concurrency_is_used_up(bench: Bench) -> None:
    bench.hold()
    lease = bench.lease("icfg_1", "db_1")
    bench.queue(lease)
    assert not bench.is_saturated()  # there is room
    await bench.send()
    bench.fill(lease, "db_2")
    bench.queue(lease)
    await bench.send()
    assert not bench.is_saturated()  # nothing waits
    bench.fill(lease, "db_3")
    bench.queue(lease)
    assert bench.is_saturated()
    bench.release(3)
    await bench.go_on()
    assert (bench.requests, bench.is_saturated()) == (["db_1", "db_2", "db_3"], False)


async def test_turns_are_left_while_deliveries_wait_and_more_requests_may_begin(bench: Bench) -> None:
    bench.hold()
    assert not bench.has_turns_left()
    lease = bench.lease("icfg_1")
    bench.queue(lease)
    assert not bench.has_turns_left()  # there is nothing to send
    bench.fill(lease, "db_1", "db_2", "db_3")
    bench.queue(lease)
    assert bench.has_turns_left()
    await bench.send()
    assert not bench.has_turns_left()  # there is no room
    bench.sender.begin_stop()
    bench.release()
    await bench.go_on()
    assert not bench.has_turns_left()  # and no more requests will begin
    assert bench.requests == ["db_1", "db_2"]


# stop ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_after_the_grace_late_requests_are_cancelled_and_answers_are_kept(bench: Bench) -> None:
    bench.hold()
    bench.queue(bench.lease("icfg_1", "db_1", "db_2"))
    await bench.send()
    bench.release()
    bench.sender.begin_stop()
    await bench.sender.finish(0.05)
    assert bench.cancelled == ["db_2"]
    assert [answer.delivery.subject.resource_id for answer in bench.answers] == ["db_1"]
    assert bench.reported(StepFailed) == []


async def test_without_requests_in_flight_it_ends_immediately(bench: Bench) -> None:
    bench.sender.begin_stop()
    async with asyncio.timeout(DEADLINE_SECONDS):
        await bench.sender.finish(10 * DEADLINE_SECONDS)


async def test_a_request_that_raises_is_reported_and_the_next_one_begins(bench: Bench) -> None:
    async def find(installation_id: str, _refused: SecretStr | None) -> SecretStr:
        if installation_id == "icfg_broken":
            raise ZeroDivisionError("a defect")
        return SecretStr("t0ken")

    bench.find = find
    broken = bench.lease("icfg_broken", "db_1", "db_2")
    bench.queue(broken)
    await bench.send()
    (failed, _) = bench.reported(StepFailed)
    assert isinstance(failed, StepFailed)
    assert (failed.step, failed.summary) == ("send", "ZeroDivisionError")
    assert broken.in_flight == 0
    bench.hold()
    bench.queue(bench.lease("icfg_1", "db_3", "db_4"))
    await bench.send()
    assert bench.requests == ["db_3", "db_4"]


# limits ───────────────────────────────────────────────────────────────────────────────────────────────────────────────


TWO_IN_HALF_A_MINUTE = pytest.mark.parametrize(
    "settings", [Settings(vercel_token=SecretStr("t0ken"), concurrency=3, global_rate_limit=RateLimit(2, 30.0))]
)


@TWO_IN_HALF_A_MINUTE
async def test_the_global_rate_limit_counts_from_the_ends_of_the_requests(bench: Bench) -> None:
    bench.hold()
    bench.queue(*(bench.lease(f"icfg_{number}", f"db_{number}") for number in range(5)))
    await bench.send()
    assert bench.requests == ["db_0", "db_1"]
    bench.now = 10.0
    bench.release(5)
    await bench.go_on()
    assert bench.sender.wait() == pytest.approx(30.0)
    assert bench.has_turns_left()
    bench.now = 39.0
    await bench.send()
    assert bench.requests == ["db_0", "db_1"]
    bench.now = 40.0
    await bench.send()
    assert bench.requests == ["db_0", "db_1", "db_2", "db_3"]


@TWO_IN_HALF_A_MINUTE
async def test_a_lease_that_is_too_short_when_the_token_arrives_releases_the_delivery_and_its_slots(
    bench: Bench,
) -> None:
    async def find(_installation_id: str, _refused: SecretStr | None) -> SecretStr:
        bench.now = bench.settings.lease - bench.settings.request_timeout - LEASE_MARGIN_SECONDS + 0.1
        return SecretStr("t0ken")

    bench.find = find
    short = bench.lease("icfg_1", "db_1")
    bench.queue(short)
    await bench.send()
    assert (bench.requests, list(bench.answers), short.in_flight) == ([], [], 0)
    assert bench.sender.wait() == 0.0
    short.until += bench.settings.lease  # renewed
    bench.fill(short, "db_1", "db_2")
    bench.queue(short)
    await bench.send()
    assert bench.requests == ["db_1", "db_2"]


async def test_a_request_may_start_if_its_deadline_is_just_before_the_end_of_the_lease(bench: Bench) -> None:
    lease = bench.lease("icfg_1", "db_1")
    bench.now = bench.settings.lease - bench.settings.request_timeout - LEASE_MARGIN_SECONDS
    bench.queue(lease)
    await bench.send()
    assert bench.requests == ["db_1"]


async def test_the_breaker_of_the_host_is_reported_once_when_it_opens_and_once_when_it_closes(bench: Bench) -> None:
    bench.answer = lambda _resource: reply(503)
    bench.queue(*(bench.lease(f"icfg_{number}", f"db_{number}") for number in range(2 * FAULTS_TO_OPEN)))
    await bench.send()
    assert bench.is_out()
    assert bench.reported(BreakerTurned) == [BreakerTurned(True)]
    assert len(bench.requests) < 2 * FAULTS_TO_OPEN
    bench.answer = lambda _resource: reply(201)
    bench.now += bench.sender.wait()
    bench.queue(bench.lease("icfg_probe", "probe"))
    await bench.send()
    assert not bench.is_out()
    assert bench.reported(BreakerTurned) == [BreakerTurned(True), BreakerTurned(False)]


async def test_during_an_outage_one_probe_at_a_time_is_sent_and_none_early(bench: Bench) -> None:
    bench.answer = lambda _resource: reply(503)
    bench.queue(*(bench.lease(f"icfg_{number}", f"db_{number}") for number in range(2 * FAULTS_TO_OPEN)))
    await bench.send()
    opened = len(bench.requests)
    bench.hold()
    bench.now += bench.sender.wait() / 2
    await bench.send()
    assert len(bench.requests) == opened
    bench.now += bench.sender.wait()
    await bench.send()
    assert len(bench.requests) == opened + 1


@ONE
async def test_the_breaker_of_an_installation_is_reported_once_when_it_opens_and_once_when_it_closes(
    bench: Bench,
) -> None:
    bench.answer = lambda _resource: reply(503)
    failing = bench.lease("icfg_1", *(f"db_{number}" for number in range(BREAKER_FAULTS)), faults=1)
    failing.breaker.limit = None
    bench.queue(failing)
    await bench.send()
    assert bench.reported(BreakerTurned) == [BreakerTurned(True, "icfg_1")]
    probed = bench.lease("icfg_1", "db_1", "db_2", faults=BREAKER_FAULTS)
    bench.answer = lambda _resource: reply(201)
    bench.queue(probed)
    await bench.send()
    assert bench.reported(BreakerTurned) == [BreakerTurned(True, "icfg_1"), BreakerTurned(False, "icfg_1")]


# pauses ───────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_pause_is_reported_once_although_several_requests_are_refused(bench: Bench) -> None:
    bench.hold()
    bench.answer = lambda _resource: reply(401)
    bench.queue(bench.lease("icfg_1", "db_1", "db_2", "db_3"))
    await bench.send()
    bench.release(9)
    await bench.go_on()
    assert bench.requests == ["db_1", "db_2", "db_1", "db_2"]
    assert bench.sent_with == ["t0ken", "t0ken", "new", "new"]
    assert bench.reported(InstallationPaused) == [InstallationPaused("icfg_1", PauseReason.UNAUTHORIZED)]
    assert bench.reported(InstallationResumed) == []


async def test_once_an_installation_is_paused_a_refused_request_is_not_repeated(bench: Bench) -> None:
    disabled = Reply(403, {}, b'{"error": {"code": "integration_configuration_disabled", "message": "no"}}')
    bench.hold()
    bench.answer = {"db_1": disabled, "db_2": reply(401)}.__getitem__
    bench.queue(bench.lease("icfg_1", "db_1", "db_2"))
    await bench.send()
    bench.release(9)
    await bench.go_on()
    assert (bench.requests, bench.looked_up) == (["db_1", "db_2"], ["icfg_1"] * 2)
    assert bench.decisions == [Action.PAUSE, Action.PAUSE]
    assert bench.reported(InstallationPaused) == [InstallationPaused("icfg_1", PauseReason.DISABLED)]


@pytest.mark.parametrize("status", [401, 503, 429])
async def test_an_installation_that_is_paused_already_is_not_reported_again(bench: Bench, status: int) -> None:
    bench.answer = lambda _resource: reply(status)
    bench.queue(bench.lease("icfg_1", "db_1", paused="unauthorized"))
    await bench.send()
    assert len(bench.answers) > 0
    assert bench.reported(InstallationPaused) == bench.reported(InstallationResumed) == []


async def test_a_probe_that_succeeds_is_reported_as_the_end_of_the_pause(bench: Bench) -> None:
    bench.queue(bench.lease("icfg_1", "db_1", "db_2", paused="unauthorized"))
    await bench.send()
    assert bench.requests == ["db_1", "db_2"]
    assert bench.reported(InstallationResumed) == [InstallationResumed("icfg_1")]


async def test_a_success_changes_and_reports_nothing_about_its_installation(bench: Bench) -> None:
    bench.queue(bench.lease("icfg_1", "db_1"))
    await bench.send()
    bench.sender.report_answers()
    assert [type(report) for report in bench.reports] == [Answered]
    assert bench.looked_up == ["icfg_1"]
    assert bench.sender.ended.is_set()


async def test_answers_are_reported_together_and_once_with_their_outcomes_and_their_lags(bench: Bench) -> None:
    bench.now = 2.0
    bench.answer = {"db_1": reply(201), "db_2": reply(503)}.__getitem__
    bench.queue(bench.lease("icfg_1", "db_1", "db_2"))
    await bench.send()  # until none is in flight
    bench.sender.report_answers()
    (answered,) = bench.reports
    assert isinstance(answered, Answered)
    assert list(answered.answers) == list(bench.answers)
    assert [answer.outcome.kind for answer in answered.answers] == [OutcomeKind.DELIVERED, OutcomeKind.FAILED]
    assert [answer.lag for answer in answered.answers] == [pytest.approx(9.0)] * 2


@pytest.mark.parametrize(("status", "outcome"), [(201, "delivered"), (503, "failed")])
async def test_the_span_of_a_delivery_has_its_outcome(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, status: int, outcome: str
) -> None:
    spans, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    bench = Bench(settings)
    bench.answer = lambda _resource: reply(status)
    bench.queue(bench.lease("icfg_1", "db_1"))
    await bench.send()
    (span,) = spans.get_finished_spans()
    assert span.attributes is not None
    assert span.attributes["dispatcher.outcome"] == outcome
    assert span.attributes["http.response.status_code"] == status
    provider.shutdown()


# tokens ───────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_refused_request_is_repeated_once_with_the_token_read_again(bench: Bench) -> None:
    answers = iter([401, 201])
    bench.answer = lambda _resource: reply(next(answers))
    lease = bench.lease("icfg_1", "db_1")
    bench.queue(lease)
    await bench.send()
    assert (bench.sent_with, bench.decisions) == (["t0ken", "new"], [Action.REFRESH, Action.DELIVERED])
    assert lease.in_flight == 0


@TWO_IN_HALF_A_MINUTE
async def test_a_repeated_request_takes_its_own_slot_under_every_limit(bench: Bench) -> None:
    answers = iter([401, 201])
    bench.answer = lambda _resource: reply(next(answers))
    window = RateWindow(10, 60.0)
    bench.queue(bench.lease("icfg_1", "db_1", window=window))
    await bench.send()
    bench.queue(bench.lease("icfg_2", "db_2"))
    await bench.send()
    assert bench.requests == ["db_1", "db_1"]
    assert bench.sender.wait() == pytest.approx(30.0)
    assert len(json.loads(window.stored(EPOCH_SECONDS) or "[]")) == 2


ONE_A_MINUTE = pytest.mark.parametrize(
    "settings", [Settings(vercel_token=SecretStr("t0ken"), concurrency=1, global_rate_limit=RateLimit(1, 30.0))]
)


@ONE_A_MINUTE
@pytest.mark.parametrize("new_token", ["t0ken", None], ids=["the same", "none"])
async def test_at_the_rate_limit_a_refused_token_without_another_pauses_the_installation(
    bench: Bench, new_token: str | None
) -> None:
    async def find(_installation_id: str, refused: SecretStr | None) -> SecretStr:
        if refused is not None and new_token is None:
            raise NoCredential("none")
        return SecretStr("t0ken")

    bench.find = find
    bench.answer = lambda _resource: reply(401)
    bench.queue(bench.lease("icfg_1", "db_1", "db_2"))
    await bench.send()
    assert (bench.requests, bench.decisions) == (["db_1"], [Action.PAUSE])
    assert bench.looked_up == ["icfg_1"] * 2


@ONE_A_MINUTE
async def test_at_the_rate_limit_the_next_turn_of_a_delivery_uses_a_changed_token(bench: Bench) -> None:
    bench.answer = lambda _resource: reply(401)
    lease = bench.lease("icfg_1", "db_1", "db_2")
    bench.queue(lease)
    await bench.send()
    assert (bench.requests, bench.decisions) == (["db_1"], [Action.REFRESH])
    bench.fill(lease, "db_1")
    bench.answer = lambda _resource: reply(201)
    bench.now = 30.0
    await bench.send()
    lease.until += 60.0  # renewed
    bench.now = 60.0
    await bench.send()
    assert bench.requests == ["db_1", "db_2", "db_1"]


async def test_a_refused_request_is_not_repeated_while_the_installation_is_throttled(
    bench: Bench,
) -> None:
    bench.hold()
    answers = iter([429, 401])
    bench.answer = lambda _resource: reply(next(answers))
    bench.queue(bench.lease("icfg_1", "db_1", "db_2"))
    await bench.send()
    bench.release(2)
    await bench.go_on()
    assert (bench.requests, bench.decisions) == (["db_1", "db_2"], [Action.THROTTLE, Action.REFRESH])


@TWO_IN_HALF_A_MINUTE
async def test_without_a_token_no_request_is_sent_and_no_slot_is_taken(bench: Bench) -> None:
    """The token is gone although it was reported to be at hand."""

    async def find(_installation_id: str, _refused: SecretStr | None) -> SecretStr:
        raise NoCredential("none")

    bench.find = find
    lease = bench.lease("icfg_1", "db_1", window=RateWindow(1, 60.0))
    bench.queue(lease)
    await bench.send()
    assert (bench.requests, bench.decisions, lease.in_flight) == ([], [Action.PAUSE], 0)
    assert lease.window is not None
    assert bench.sender.wait() == lease.window.wait(EPOCH_SECONDS) == 0.0


class SlowTokens:
    """Look-ups that end when the test releases them; no token is kept."""

    def __init__(self, bench: Bench) -> None:
        self.failure: Exception | None = None
        self.cancelled: list[str] = []
        self._turns = asyncio.Semaphore(0)
        bench.keeps = False
        bench.find = self._find

    async def _find(self, installation_id: str, _refused: SecretStr | None) -> SecretStr:
        try:
            await self._turns.acquire()
        except asyncio.CancelledError:
            self.cancelled.append(installation_id)
            raise
        if self.failure is not None:
            raise self.failure
        return SecretStr("t0ken")

    def release(self, look_ups: int = 1) -> None:
        for _ in range(look_ups):
            self._turns.release()


async def test_a_token_that_was_looked_up_is_used_immediately(bench: Bench) -> None:
    tokens = SlowTokens(bench)
    bench.queue(bench.lease("icfg_1", "db_1"))
    await bench.send()
    assert (bench.looked_up, bench.requests) == (["icfg_1"], [])
    tokens.release(2)  # one for the look-up, one for the request
    await bench.go_on()
    assert bench.requests == ["db_1"]


@ONE
async def test_looking_a_token_up_again_does_not_delay_other_installations(bench: Bench) -> None:
    tokens = SlowTokens(bench)
    slow = bench.lease("icfg_slow", "db_1", "db_2")
    bench.queue(slow)
    await bench.send()
    tokens.release(2)
    await bench.go_on()
    assert (bench.requests, slow.in_flight) == (["db_1"], 0)
    bench.keeps, bench.find = True, bench._find
    bench.queue(slow, bench.lease("icfg_quick", "db_3"))
    await bench.send()
    assert bench.requests == ["db_1", "db_3"]
    tokens.release()
    await bench.go_on()
    assert bench.requests == ["db_1", "db_3", "db_2"]


@pytest.mark.parametrize(
    ("failure", "decision"), [(NoCredential("none"), Action.PAUSE), (CredentialsUnavailable("later"), Action.THROTTLE)]
)
async def test_a_failed_look_up_becomes_the_outcome_of_a_delivery_without_a_request(
    bench: Bench, failure: Exception, decision: Action
) -> None:
    tokens = SlowTokens(bench)
    tokens.failure = failure
    lease = bench.lease("icfg_1", "db_1", "db_2", window=RateWindow(1, 60.0))
    bench.queue(lease)
    await bench.send()
    tokens.release()
    await bench.go_on()
    assert (bench.looked_up, bench.requests, bench.decisions) == (["icfg_1"], [], [decision])
    assert bench.sender.ended.is_set()
    assert (lease.in_flight, list(lease.queue)) == (0, [])
    assert lease.window is not None
    assert lease.window.wait(EPOCH_SECONDS) == 0.0


async def test_a_stop_cancels_look_ups_and_begins_no_request(bench: Bench) -> None:
    tokens = SlowTokens(bench)
    bench.queue(bench.lease("icfg_1", "db_1"))
    await bench.send()
    bench.sender.begin_stop()
    await bench.go_on()
    assert tokens.cancelled == ["icfg_1"]
    tokens.release(9)
    bench.keeps = True
    bench.queue(bench.lease("icfg_2", "db_2"))
    await bench.send()
    assert bench.requests == []


async def test_a_report_of_a_full_rate_window_stops_the_installation(bench: Bench) -> None:
    headers = {"x-ratelimit-remaining": "0", "x-ratelimit-reset": f"{EPOCH_SECONDS + 20:.0f}"}
    bench.answer = lambda _resource: Reply(201, headers, b"")
    bench.hold()
    bench.queue(bench.lease("icfg_1", "db_1", "db_2", "db_3", window=RateWindow(10, 60.0)))
    await bench.send()
    bench.release(9)
    await bench.go_on()
    assert bench.requests == ["db_1", "db_2"]


# all well ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


REPORTED = Reply(201, {"x-ratelimit-remaining": "7", "x-ratelimit-reset": f"{EPOCH_SECONDS + 40:.0f}"}, b"")
"""A success that reports the destination's rate window."""


def stir_host(bench: Bench, _lease: HeldLease) -> None:
    bench.sender._breaker._count_fault("another", 0.0, connected=True)


def stir_failures(_bench: Bench, lease: HeldLease) -> None:
    lease.breaker.failures = 1


def stir_faults(_bench: Bench, lease: HeldLease) -> None:
    lease.breaker.faults = 1


def stir_limit(_bench: Bench, lease: HeldLease) -> None:
    lease.breaker.limit = 2


def stir_suspects(_bench: Bench, lease: HeldLease) -> None:
    lease.suspects = 1


def stir_pause(_bench: Bench, lease: HeldLease) -> None:
    lease.pause_reason, lease.paused_for = "unauthorized", 1.0


def stir_reason(_bench: Bench, lease: HeldLease) -> None:
    lease.pause_reason = "unauthorized"


def stir_answer(bench: Bench, _lease: HeldLease) -> None:
    bench.answer = lambda _resource: reply(503)


STIRRED = (
    stir_host,
    stir_failures,
    stir_faults,
    stir_limit,
    stir_suspects,
    stir_pause,
    stir_reason,
    stir_answer,
)


def count_short_ways(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> list[str | None]:
    """Returns the resources whose requests ended the short way."""
    resources: list[str | None] = []
    end_well = bench.sender._end_well

    def ending(lease: HeldLease, delivery: Delivery, *rest: Any) -> None:
        resources.append(delivery.subject.resource_id)
        end_well(lease, delivery, *rest)

    monkeypatch.setattr(bench.sender, "_end_well", ending)
    return resources


@pytest.mark.parametrize("window", [None, RateWindow(60, 60.0)], ids=["no limit", "rate window"])
async def test_when_all_is_well_a_request_ends_the_short_way(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, window: RateWindow | None
) -> None:
    short = count_short_ways(bench, monkeypatch)
    bench.queue(bench.lease("icfg_1", "db_1", window=window))
    await bench.send()
    assert (short, bench.decisions) == (["db_1"], [Action.DELIVERED])


@pytest.mark.parametrize("stir", STIRRED)
async def test_unless_all_is_well_a_request_ends_the_general_way(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, stir: Callable[[Bench, HeldLease], None]
) -> None:
    short = count_short_ways(bench, monkeypatch)
    lease = bench.lease("icfg_1", "db_1")
    stir(bench, lease)
    bench.queue(lease)
    await bench.send()
    assert (short, bench.requests) == ([], ["db_1"])


@pytest.mark.parametrize("answer", [reply(201), REPORTED], ids=["plain", "with a rate report"])
@pytest.mark.parametrize("limit", [None, RateLimit(60, 60.0)], ids=["no limit", "rate window"])
@pytest.mark.parametrize("overall", [None, RateLimit(5, 60.0)], ids=["no overall limit", "overall limit"])
@pytest.mark.parametrize("stopped", [False, True], ids=["going on", "stopped meanwhile"])
async def test_both_ways_have_the_same_effect(
    monkeypatch: pytest.MonkeyPatch, answer: Reply, limit: RateLimit | None, overall: RateLimit | None, stopped: bool
) -> None:
    ends: list[object] = []
    for is_short in (True, False):
        bench = Bench(Settings(vercel_token=SecretStr("t0ken"), concurrency=2, global_rate_limit=overall))
        if not is_short:
            monkeypatch.setattr(HeldLease, "is_calm", False)
        short = count_short_ways(bench, monkeypatch)
        window = RateWindow(limit.requests, limit.seconds) if limit else None
        lease = bench.lease("icfg_1", "db_1", "db_2", "db_3", window=window)
        bench.hold()
        bench.answer = lambda _resource: answer
        bench.queue(lease)
        await bench.send()
        bench.now = 3.0
        if stopped:
            lease.stop(20.0)
        bench.release(2)
        await bench.go_on()
        bench.sender.report_answers()
        assert short == (["db_1", "db_2"] if is_short else [])
        ends.append(everything(bench, lease))
        await bench.sender.finish(0)
    assert ends[0] == ends[1]


def everything(bench: Bench, lease: HeldLease) -> object:
    """Returns what a later request, a settlement or a listener can see."""
    host, state = bench.sender._breaker, lease.state(bench.now, release=False, fresh=False)
    counts = (host._in_flight, host._faults, host._gaps, host._served.rate, bench.sender.wait(), bench.sender.saturated)
    held = (sorted(lease.held), [one.subject_key for one in lease.queue], lease.in_flight, lease.in_rota)
    window = lease.window and (lease.window._started, lease.window._ended)
    return bench.requests, list(bench.answers), bench.reports, counts, held, state, lease.stopped_until, window
