"""Coalescing: many events of few subjects, compared with events of distinct subjects."""

import statistics
from collections.abc import Iterator

from tests.benchmarks.drain import drain
from tests.benchmarks.machine import Machine
from tests.benchmarks.table import Line, median_ratio

INSTALLATIONS = 2_000


def measure(machine: Machine) -> Iterator[Line]:
    """Measures events per second."""
    events, subjects, distinct = machine.size(200_000), machine.size(1_000), machine.size(60_000)
    server, sink = machine.databases["postgresql"], machine.sink
    many: list[float] = []
    few: list[float] = []
    for _ in range(machine.rounds):
        few.append(drain(server, sink, distinct, installations=min(INSTALLATIONS, distinct))[0])
        many.append(drain(server, sink, events, installations=min(INSTALLATIONS, subjects), subjects=subjects)[0])
    value = f"{statistics.median(many):,.0f} events/s"
    case = f"{events:,} events of {subjects:,} subjects"
    yield Line("coalescing", case, value, median_ratio(many, few), "× distinct subjects", at_least=3)
