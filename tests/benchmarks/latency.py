"""Latency: how long after a commit the request arrives, at a steady few events per second."""

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from dispatcher import ResourceUpdated, insert_event
from dispatcher.database.notifier import trigger_sql
from dispatcher.database.transactions import Database, open_database
from tests.benchmarks.events import commit, fresh, wait_until_delivered
from tests.benchmarks.machine import Machine, Sink
from tests.benchmarks.programs import dispatcher, running, settings
from tests.benchmarks.table import Line, percentile

EVENTS_PER_SECOND = 50


@dataclass(frozen=True, slots=True)
class Case:
    """A database, how the dispatcher learns of a commit, and the targets in milliseconds."""

    database: str
    wakeup: str
    median_at_most: float
    p99_at_most: float


CASES = (
    Case("postgresql", "poll", 9, 25),
    Case("postgresql", "notify", 4, 15),
    Case("mysql", "poll", 9, 25),
    Case("sqlite", "poll", 4, 15),
)


def measure(machine: Machine) -> Iterator[Line]:
    """Measures events that each belong to a different installation."""
    events = machine.size(1_000)
    cases = [case for case in CASES if case.database in machine.databases]
    medians: dict[Case, list[float]] = {case: [] for case in cases}
    p99s: dict[Case, list[float]] = {case: [] for case in cases}
    for _ in range(machine.rounds):
        for case in cases:
            latencies = _latencies(machine.databases[case.database].url, machine.sink, case.wakeup, events)
            medians[case].append(percentile(latencies, 50))
            p99s[case].append(percentile(latencies, 99))
    for case in cases:
        name = f"{case.database}, WAKEUP={case.wakeup}"
        for share, measured, target in (("p50", medians, case.median_at_most), ("p99", p99s, case.p99_at_most)):
            value = statistics.median(measured[case])
            yield Line("latency", f"{name}, {share}", f"{value:.1f} ms", value, "ms", at_most=target)


def _latencies(url: str, sink: Sink, wakeup: str, events: int) -> list[float]:
    """Returns the milliseconds from sending each commit to the arrival of its request."""
    with _database(url, wakeup) as database, running(dispatcher("run"), settings(url, sink.url, WAKEUP=wakeup)):
        commit(database, 10, subjects=10, installations=10)
        wait_until_delivered(database)
        sink.forget()
        committed = _commit_one_by_one(database, events)
        wait_until_delivered(database)
        return [(at - committed[path]) * 1000 for at, path in sink.arrivals(events)]


@contextmanager
def _database(url: str, wakeup: str) -> Iterator[Database]:
    database = open_database(url)
    fresh(database)
    if wakeup == "notify":
        with database.engine.begin() as connection:
            connection.exec_driver_sql(trigger_sql().replace("%", "%%"))
    yield database
    database.close()


def _commit_one_by_one(database: Database, events: int) -> dict[str, float]:
    """Commits the events, and returns the time of each commit by the path of its request."""
    committed: dict[str, float] = {}
    began = time.monotonic()
    for number in range(events):
        time.sleep(max(0.0, began + number / EVENTS_PER_SECOND - time.monotonic()))
        installation = f"icfg_new_{number}"
        with database.engine.connect() as connection:
            connection.execute(insert_event(ResourceUpdated(installation_id=installation, resource_id="db_1")))
            committed[f"/v1/installations/{installation}/events"] = time.time()
            connection.commit()
    return committed
