"""The ops endpoints: alive, ready, and the metrics; what the reports become in them."""

import httpx
import pytest

from dispatcher.outbox.events import Subject
from dispatcher.policy.decision import Action, DeadLetterReason, Decision, Outcome, OutcomeKind
from dispatcher.service.endpoints import ops_app
from dispatcher.service.health import LIVE_FOR, READY_FOR, Health
from dispatcher.telemetry import (
    Attempted,
    CrashBuried,
    EventsCollected,
    Gauged,
    LeaseLost,
    Metrics,
    Report,
    StepFailed,
    Stranded,
    Ticked,
    WritesAccepted,
    listen,
)

SUBJECT = Subject("icfg_secret", "resource.updated", "db_secret")
BROKEN = StepFailed("tick", "the database refused (DataError)", "the database refused (DataError): icfg_secret")


class Ops:
    """The app, told of reports, at a time of our own."""

    def __init__(self) -> None:
        self.now = 0.0
        self.health = Health(lambda: self.now)
        self.metrics = Metrics("1.2.3")
        self.report = listen(self.health, self.metrics)
        app = ops_app(self.health, self.metrics.registry)
        self.client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://ops")

    async def lines(self) -> list[str]:
        return (await self.client.get("/metrics")).text.splitlines()


@pytest.fixture
async def ops() -> Ops:
    return Ops()


async def test_it_is_live_while_ticks_come_even_bad_ones(ops: Ops) -> None:
    ops.now = LIVE_FOR - 1
    assert (await ops.client.get("/livez")).status_code == 200
    ops.report(BROKEN)
    ops.now += LIVE_FOR - 1
    assert (await ops.client.get("/livez")).status_code == 200
    ops.report(StepFailed("gauges", "ValueError", "ValueError: no"))  # the tick is stuck all the same
    ops.now += 1
    assert (await ops.client.get("/livez")).status_code == 503


async def test_it_is_ready_while_ticks_go_through_and_says_why_not(ops: Ops) -> None:
    async def readiness() -> tuple[int, str | None]:
        answer = await ops.client.get("/readyz")
        return answer.status_code, answer.json()["reason"]

    assert await readiness() == (503, "no tick has gone through yet")
    ops.report(Ticked(0))
    assert await readiness() == (200, None)
    ops.report(BROKEN)
    assert await readiness() == (503, "tick: the database refused (DataError)")
    ops.report(Ticked(0))
    ops.report(StepFailed("gauges", "ValueError", "ValueError: no"))
    assert await readiness() == (200, None)
    ops.report(StepFailed("writes", "the database takes no writes", "the database takes no writes: icfg_secret"))
    ops.report(Ticked(0))
    assert await readiness() == (503, "writes: the database takes no writes")
    ops.report(WritesAccepted())
    assert await readiness() == (200, None)
    ops.now = READY_FOR
    assert await readiness() == (503, "the last tick went through 30 s ago")
    ops.health.stopping = True
    assert await readiness() == (503, "the service is stopping")


@pytest.mark.parametrize(
    ("report", "line"),
    [
        (EventsCollected(7, 0), "dispatcher_events_collected_total 7.0"),
        (EventsCollected(7, 2), 'dispatcher_dead_lettered_total{reason="malformed"} 2.0'),
        (CrashBuried(3), 'dispatcher_dead_lettered_total{reason="exhausted"} 3.0'),
        (LeaseLost(2), "dispatcher_lease_lost_total 2.0"),
        (Stranded(1), "dispatcher_stranded_total 1.0"),
        (Ticked(5), "dispatcher_in_flight 5.0"),
        (Gauged({"due": 4}, 12.5, {}, {}, 0), 'dispatcher_backlog{state="due"} 4.0'),
        (Gauged({}, 12.5, {}, {}, 0), "dispatcher_oldest_event_age_seconds 12.5"),
        (Gauged({}, 0.0, {"gone": 2}, {}, 0), 'dispatcher_dead_letters{reason="gone"} 2.0'),
        (Gauged({}, 0.0, {}, {"disabled": 2}, 0), 'dispatcher_installations_paused{reason="disabled"} 2.0'),
        (BROKEN, 'dispatcher_breaker_open{scope="host"} 0.0'),
        (BROKEN, 'dispatcher_build_info{version="1.2.3"} 1.0'),
    ],
)
async def test_each_report_becomes_its_metric(ops: Ops, report: Report, line: str) -> None:
    ops.report(report)
    assert line in await ops.lines()


async def test_an_attempt_is_counted_by_its_outcome_and_names_nobody(ops: Ops) -> None:
    delivered = Outcome(OutcomeKind.DELIVERED, 201, duration=0.2)
    ops.report(Attempted(SUBJECT, 1, 1, delivered, Decision(Action.DELIVERED), 0.3))
    rejected = Outcome(OutcomeKind.REJECTED, 400, error="https://who.test")
    ops.report(Attempted(SUBJECT, 1, 1, rejected, Decision(Action.BURY, DeadLetterReason.REJECTED), 0.3))
    lines = await ops.lines()
    assert 'dispatcher_requests_total{outcome="delivered"} 1.0' in lines
    assert "dispatcher_request_seconds_count 2.0" in lines
    assert "dispatcher_lag_seconds_count 1.0" in lines
    assert 'dispatcher_dead_lettered_total{reason="rejected"} 1.0' in lines
    assert not [line for line in lines if "secret" in line or "http" in line]


async def test_gauges_go_back_to_zero(ops: Ops) -> None:
    ops.report(Gauged({}, 0.0, {"gone": 2}, {"disabled": 1}, 0))
    ops.report(Gauged({}, 0.0, {}, {}, 0))
    lines = await ops.lines()
    assert 'dispatcher_dead_letters{reason="gone"} 0.0' in lines
    assert 'dispatcher_installations_paused{reason="disabled"} 0.0' in lines


async def test_every_series_of_a_counter_is_there_before_its_first_increase(ops: Ops) -> None:
    """Otherwise a rate, and so an alert, does not see that increase."""
    lines = await ops.lines()
    assert all(f'dispatcher_requests_total{{outcome="{kind}"}} 0.0' in lines for kind in OutcomeKind)
    assert all(f'dispatcher_dead_lettered_total{{reason="{reason}"}} 0.0' in lines for reason in DeadLetterReason)


async def test_nothing_here_changes_anything(ops: Ops) -> None:
    for path in ("/livez", "/readyz", "/metrics"):
        assert (await ops.client.post(path)).status_code == 405


def test_ticks_that_are_meant_to_be_rare_may_be() -> None:
    times = iter([0.0, 0.0, LIVE_FOR, READY_FOR, 600.0 + LIVE_FOR, 600.0 + READY_FOR, 600.0 + READY_FOR])
    health = Health(lambda: next(times), pause=600.0)
    health(Ticked(0))
    assert (health.live, health.why_not_ready) == (True, None)
    assert not health.live
    assert "the last tick went through" in str(health.why_not_ready)
