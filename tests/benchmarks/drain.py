"""Drain: how fast a full outbox is emptied, compared with the bare client over the same transport at the same concurrency."""

import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from dispatcher.database.transactions import open_database
from tests.benchmarks.events import commit, fresh, wait_until_delivered
from tests.benchmarks.machine import Machine, Sink
from tests.benchmarks.programs import Used, dispatcher, run, running, settings
from tests.benchmarks.table import Line, median_ratio

CONCURRENCY = 64


@dataclass(frozen=True, slots=True)
class Case:
    """A database, and the backlog in it."""

    database: str
    installations: int
    at_least: float | None = None
    """The target, as a ratio to the bare client."""
    on_one_core: bool = False


CASES = (
    Case("postgresql", 1, 0.65),
    Case("postgresql", 2_000, 0.80),
    Case("postgresql", 40_000, 0.65),
    Case("postgresql", 2_000, on_one_core=True),
    Case("mysql", 1),
    Case("mysql", 2_000),
    Case("mysql", 40_000),
    Case("sqlite", 1, 0.65),
    Case("sqlite", 2_000, 0.65),
    Case("sqlite", 40_000, 0.65),
)


def measure(machine: Machine) -> Iterator[Line]:
    """Measures events of distinct subjects."""
    events = machine.size(60_000)
    cases = [case for case in CASES if case.database in machine.urls]
    rates: dict[Case, list[float]] = {case: [] for case in cases}
    used: dict[Case, list[Used]] = {case: [] for case in cases}
    bare: list[float] = []
    for _ in range(machine.rounds):
        bare.append(_bare(machine.sink, events))
        for case in cases:
            url, installations = machine.urls[case.database], min(case.installations, events)
            command = dispatcher("run", on_one_core=case.on_one_core)
            rate, spent = drain(url, machine.sink, events, installations=installations, command=command)
            rates[case].append(rate)
            used[case].append(spent)
    yield Line("drain", "bare client", f"{statistics.median(bare):,.0f}/s")
    for case in cases:
        processor = statistics.median(one.processor for one in used[case]) / events * 1000
        memory = max(one.memory for one in used[case])
        value = f"{statistics.median(rates[case]):,.0f}/s, {processor:.2f} s CPU/1,000, {memory:.0f} MB"
        name = f"{case.database}, installations: {case.installations:,}{', on one core' * case.on_one_core}"
        yield Line("drain", name, value, median_ratio(rates[case], bare), "× the bare client", at_least=case.at_least)


def drain(
    url: str,
    sink: Sink,
    events: int,
    *,
    installations: int,
    subjects: int | None = None,
    replicas: int = 1,
    command: Sequence[str] = (),
) -> tuple[float, Used]:
    """Returns events per second, from their commit to the last request, and what the dispatchers used meanwhile.

    The dispatchers run idle before all events are committed in one transaction. Each subject is sent exactly once.
    """
    subjects = subjects or events
    database = open_database(url)
    fresh(database)
    with ExitStack() as stack:
        started = (running(command or dispatcher("run"), settings(url, sink.url)) for _ in range(replicas))
        workers = [stack.enter_context(one) for one in started]
        commit(database, replicas, subjects=replicas, installations=replicas)
        wait_until_delivered(database)
        sink.forget()
        before = [worker.processor() for worker in workers]
        commit(database, events, subjects=subjects, installations=installations)
        committed = time.time()
        wait_until_delivered(database)
        spent = sum(worker.processor() - begun for worker, begun in zip(workers, before, strict=True))
        used = Used(spent, max(worker.peak_memory() for worker in workers))
    database.close()
    return events / (sink.arrivals(subjects)[-1][0] - committed), used


def _bare(sink: Sink, requests: int) -> float:
    sink.forget()
    run([sys.executable, "-m", "tests.benchmarks.bare", sink.url, str(requests), str(CONCURRENCY)])
    return sink.rate(requests)
