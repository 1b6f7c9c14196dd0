"""Drain: how fast a full outbox is emptied, and what that costs."""

import statistics
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from dispatcher.database.transactions import open_database
from tests.benchmarks.events import commit, wait_until_delivered
from tests.benchmarks.machine import Machine, Server, Sink
from tests.benchmarks.programs import PROGRAM, Running, Used, run, running, settings
from tests.benchmarks.table import Line, median_ratio
from tests.tables import drop_tables


@dataclass(frozen=True, slots=True)
class Case:
    """A database, the backlog in it, what differs from the default settings, and the targets."""

    database: str
    installations: int
    others: tuple[tuple[str, str], ...] = ()
    tls: bool = False
    at_least: float | None = None
    """Events per second."""
    worker_at_most: float | None = None
    """Seconds of processor time of the worker per 1,000 events."""

    def __str__(self) -> str:
        changed = [f"{name}={value}" for name, value in self.others] + ["TLS"] * self.tls
        return ", ".join([self.database, f"installations: {self.installations:,}", *changed])


STANDARD = Case("postgresql", 2_000, worker_at_most=0.065)
NO_RATE_LIMIT = (("RATE_LIMIT", "off"),)
CASES = (
    STANDARD,
    Case("postgresql", 2_000, tls=True, worker_at_most=0.075),
    Case("postgresql", 2_000, (("PROCESSES", "2"),)),
    Case("postgresql", 2_000, NO_RATE_LIMIT),
    Case("postgresql", 2_000, (("ATTEMPT_LOG", "failures"),)),
    Case("postgresql", 1, NO_RATE_LIMIT, at_least=12_000),
    Case("postgresql", 60_000, at_least=6_000),
    Case("mysql", 2_000),
    Case("sqlite", 2_000),
)


@dataclass(slots=True)
class Measured:
    """The rounds of a case."""

    rates: list[float] = field(default_factory=list)
    used: list[Used] = field(default_factory=list)

    def add(self, rate: float, used: Used) -> None:
        self.rates.append(rate)
        self.used.append(used)

    def worker(self, events: int) -> float:
        """Returns the worker's seconds of processor time per 1,000 events."""
        return statistics.median(one.worker for one in self.used) / events * 1000

    def processor(self, events: int) -> str:
        """Describes the seconds of processor time per 1,000 events."""
        database = statistics.median(one.database for one in self.used) / events * 1000
        return f"{self.worker(events):.3f} s, the database {database:.3f} s"


def measure(machine: Machine) -> Iterator[Line]:
    """Measures events of distinct subjects."""
    events = machine.size(60_000)
    cases = [case for case in CASES if case.database in machine.databases]
    measured = {case: Measured() for case in cases}
    for _ in range(machine.rounds):
        for case in cases:
            server = machine.databases[case.database]
            environment = _environment(case, server, machine.sink)
            installations = min(case.installations, events)
            measured[case].add(*drain(server, machine.sink, events, installations=installations, others=environment))
    for case in cases:
        yield from _lines(case, measured[case], measured[STANDARD], events)


def _environment(case: Case, server: Server, sink: Sink) -> dict[str, str]:
    url, others = sink.url, dict(case.others)
    if case.tls:
        url, others["CA_FILE"] = sink.tls_url, str(sink.ca_file)
    return settings(server.url, url, **others)


def _lines(case: Case, measured: Measured, standard: Measured, events: int) -> Iterator[Line]:
    rate = statistics.median(measured.rates)
    ratio = median_ratio(measured.rates, standard.rates)
    memory = max(one.memory for one in measured.used)
    value = f"{ratio:.2f} × the standard case, {memory:.0f} MB"
    yield Line("drain", str(case), value, rate, "events/s", at_least=case.at_least)
    value, worker = measured.processor(events), measured.worker(events)
    yield Line("drain", f"{case}, CPU per 1,000", value, worker, "s, worker", at_most=case.worker_at_most)


def drain(
    server: Server,
    sink: Sink,
    events: int,
    *,
    installations: int,
    subjects: int | None = None,
    replicas: int = 1,
    others: dict[str, str] | None = None,
    beside: AbstractContextManager[None] | None = None,
    program: Path = PROGRAM,
) -> tuple[float, Used]:
    """Returns events per second, from their commit to the last request, and what the dispatchers and the database used meanwhile.

    The dispatchers, with the environment `others` instead of the default settings, run idle before all events are committed in one
    transaction. Each subject is sent exactly once. `beside` is open meanwhile. `program`: the dispatcher's.
    """
    subjects, environment = subjects or events, others or settings(server.url, sink.url)
    database = open_database(server.url)
    drop_tables(database)  # not by migrating down: they may be those of another version
    run([str(program), "migrate"], environment)
    with ExitStack() as stack:
        workers = [stack.enter_context(running([str(program), "run"], environment)) for _ in range(replicas)]
        commit(database, replicas, subjects=replicas, installations=replicas)
        wait_until_delivered(database)
        stack.enter_context(beside or nullcontext())
        sink.forget()
        observed = [*workers, *([Running(server.pid)] if server.pid else [])]
        before = [one.processor() for one in observed]
        commit(database, events, subjects=subjects, installations=installations)
        committed = time.time()
        wait_until_delivered(database)
        spent = [one.processor() - begun for one, begun in zip(observed, before, strict=True)]
        used = Used(sum(spent[:replicas]), sum(spent[replicas:]), max(worker.peak_memory() for worker in workers))
    database.close()
    return events / (sink.arrivals(subjects)[-1][0] - committed), used
