"""The metrics that each report changes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram, generate_latest

from dispatcher.policy.decision import Action, DeadLetterReason, Decision
from dispatcher.policy.outcome import Outcome, OutcomeKind
from dispatcher.telemetry import (
    Answered,
    CrashBuried,
    EventsCollected,
    Gauged,
    LeaseLost,
    Metrics,
    Report,
    StepFailed,
    Stranded,
    Ticked,
)
from dispatcher.telemetry.distribution import Distribution
from dispatcher.telemetry.metrics import LAG_SECONDS, REQUEST_SECONDS
from tests.unit.answered import answer

SECRET = ("icfg_secret", "db_secret")
BROKEN = StepFailed(
    "tick", "the database reported an error (DataError)", "the database reported an error (DataError): icfg_secret"
)


@pytest.fixture
def metrics() -> Metrics:
    return Metrics("1.2.3")


def lines(metrics: Metrics) -> list[str]:
    return generate_latest(metrics.registry).decode().splitlines()


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
        (Gauged({}, 0.0, {}, {}, 0, overdue=7.5), "dispatcher_overdue_seconds 7.5"),
        (Gauged({}, 0.0, {}, {}, 0, installations=9), 'dispatcher_installations{state="known"} 9.0'),
        (Gauged({}, 0.0, {}, {}, 0, failing=3), 'dispatcher_installations{state="failing"} 3.0'),
        (BROKEN, 'dispatcher_breaker_open{scope="host"} 0.0'),
        (BROKEN, 'dispatcher_build_info{version="1.2.3"} 1.0'),
    ],
)
def test_each_report_becomes_its_metric(metrics: Metrics, report: Report, line: str) -> None:
    metrics(report)
    assert line in lines(metrics)


def test_an_attempt_is_counted_by_its_outcome_and_shows_no_id(metrics: Metrics) -> None:
    delivered = Outcome(OutcomeKind.DELIVERED, 201, duration=0.2)
    rejected = Outcome(OutcomeKind.REJECTED, 400, error="https://who.test")
    bury = Decision(Action.BURY, DeadLetterReason.REJECTED)
    metrics(Answered([answer(delivered, Decision(Action.DELIVERED), ids=SECRET), answer(rejected, bury, ids=SECRET)]))
    shown = lines(metrics)
    assert 'dispatcher_requests_total{outcome="delivered"} 1.0' in shown
    assert "dispatcher_request_seconds_count 2.0" in shown
    assert "dispatcher_lag_seconds_count 1.0" in shown
    assert 'dispatcher_dead_lettered_total{reason="rejected"} 1.0' in shown
    assert not [line for line in shown if "secret" in line or "http" in line]


def test_gauges_go_back_to_zero(metrics: Metrics) -> None:
    metrics(Gauged({}, 0.0, {"gone": 2}, {"disabled": 1}, 0))
    metrics(Gauged({}, 0.0, {}, {}, 0))
    shown = lines(metrics)
    assert 'dispatcher_dead_letters{reason="gone"} 0.0' in shown
    assert 'dispatcher_installations_paused{reason="disabled"} 0.0' in shown


def test_every_series_of_a_counter_is_there_before_its_first_increase(metrics: Metrics) -> None:
    """Otherwise a rate, and so an alert, does not see that increase."""
    shown = lines(metrics)
    assert all(f'dispatcher_requests_total{{outcome="{kind}"}} 0.0' in shown for kind in OutcomeKind)
    assert all(f'dispatcher_dead_lettered_total{{reason="{reason}"}} 0.0' in shown for reason in DeadLetterReason)


@pytest.mark.parametrize("bounds", [LAG_SECONDS, REQUEST_SECONDS])
@given(batches=st.lists(st.lists(st.sampled_from(LAG_SECONDS) | st.floats(0, 100_000).map(round))))
def test_a_distribution_is_shown_as_a_histogram_of_the_same_values(
    bounds: tuple[float, ...], batches: list[list[float]]
) -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    distribution = Distribution("seconds", "How long it took.", bounds, ours)
    histogram = Histogram("seconds", "How long it took.", registry=theirs, buckets=bounds)
    for batch in batches:
        distribution.observe(batch)
        for value in batch:
            histogram.observe(value)
    assert without_creation(ours) == without_creation(theirs)


def without_creation(registry: CollectorRegistry) -> list[str]:
    """Returns the lines of the page, without the value of the time at which the histogram was created."""
    shown = generate_latest(registry).decode().splitlines()
    return [line.rpartition(" ")[0] if line.startswith("seconds_created") else line for line in shown]
