"""Replicas: several dispatchers on one database send no subject twice, and are no slower than one."""

import statistics
from collections.abc import Iterator

from tests.benchmarks.drain import drain
from tests.benchmarks.machine import Machine
from tests.benchmarks.table import Line, median_ratio

INSTALLATIONS = 2_000


def measure(machine: Machine) -> Iterator[Line]:
    """Measures the requests per second of all replicas together."""
    events = machine.size(60_000)
    rates: dict[int, list[float]] = {1: [], 2: [], 4: []}
    for _ in range(machine.rounds):
        for replicas, measured in rates.items():
            rate, _ = drain(
                machine.databases["postgresql"],
                machine.sink,
                events,
                installations=min(INSTALLATIONS, events),
                replicas=replicas,
            )
            measured.append(rate)
    for replicas, measured in rates.items():
        value = f"{statistics.median(measured):,.0f}/s"
        yield Line("replicas", str(replicas), value, median_ratio(measured, rates[1]), "× one", at_least=0.9)
