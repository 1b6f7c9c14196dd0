"""The metrics of several worker processes, merged."""

from prometheus_client import generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics

from dispatcher.telemetry import EventsCollected, Gauged, Metrics, Ticked
from dispatcher.telemetry.merged_metrics import MergedMetrics

GAUGED = Gauged(
    backlog={"outbox": 5},
    oldest_event_age=7.0,
    overdue=0.0,
    dead_letters={},
    installations=3,
    failing=1,
    paused={},
    open_breakers=0,
)


def text_of(metrics: Metrics) -> str:
    return generate_latest(metrics.registry).decode()


def lines(merged: MergedMetrics) -> list[str]:
    return generate_latest(merged.registry).decode().splitlines()


def value(merged: MergedMetrics, name: str, **labels: str) -> float | None:
    return merged.registry.get_sample_value(name, labels)


def test_counters_are_summed_and_what_describes_the_database_is_not() -> None:
    one, two, merged = Metrics("1.0"), Metrics("1.0"), MergedMetrics()
    for metrics, events, in_flight in ((one, 2, 3), (two, 40, 4)):
        metrics(EventsCollected(events, 0))
        metrics(Ticked(in_flight))
        metrics(GAUGED)
    two(Ticked(4))
    merged.update(1, text_of(one))
    merged.update(2, text_of(two))
    assert value(merged, "dispatcher_events_collected_total") == 42
    assert value(merged, "dispatcher_in_flight") == 7
    assert value(merged, "dispatcher_backlog", state="outbox") == 5
    assert value(merged, "dispatcher_build_info", version="1.0") == 1
    ticks = [metrics.registry.get_sample_value("dispatcher_tick_timestamp_seconds") for metrics in (one, two)]
    assert value(merged, "dispatcher_tick_timestamp_seconds") == min(tick for tick in ticks if tick is not None)


def test_every_series_of_one_process_is_there_with_its_type() -> None:
    one, merged = Metrics("1.0"), MergedMetrics()
    merged.update(1, text_of(one))
    told = [line for line in text_of(one).splitlines() if "_created" not in line]
    assert lines(merged) == told


def test_openmetrics_can_be_written_too() -> None:
    one, merged = Metrics("1.0"), MergedMetrics()
    one(EventsCollected(2, 0))
    merged.update(1, text_of(one))
    text = generate_openmetrics(merged.registry).decode()  # type: ignore[no-untyped-call]  # untyped in the library
    assert "dispatcher_events_collected_total 2.0" in text
    assert "_created" not in text


def test_no_counter_falls_when_a_process_is_replaced() -> None:
    old, new, merged = Metrics("1.0"), Metrics("1.0"), MergedMetrics()
    old(EventsCollected(2, 0))
    old(Ticked(5))
    merged.update(1, text_of(old))
    merged.end(1)
    new(EventsCollected(1, 0))
    new(Ticked(1))
    merged.update(1, text_of(new))
    assert value(merged, "dispatcher_events_collected_total") == 3
    assert value(merged, "dispatcher_in_flight") == 1
    merged.end(1)
    merged.end(1)
    merged.update(1, text_of(Metrics("1.0")))
    assert value(merged, "dispatcher_events_collected_total") == 3
