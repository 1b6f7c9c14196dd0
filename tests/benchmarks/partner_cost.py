"""The partner's cost: small transactions per second that its application commits, with and without our constraints and trigger."""

import re
import statistics
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from dispatcher.database.notifier import trigger_sql
from dispatcher.database.transactions import Database, open_database
from tests.benchmarks.events import fresh
from tests.benchmarks.machine import Machine, find
from tests.benchmarks.programs import dispatcher, running, settings
from tests.benchmarks.table import Line, median_ratio

CLIENTS = 16
_SCRIPT = """\
\\set installation random(1, 1000)
\\set resource random(1, 100000)
INSERT INTO {table} (installation_id, type, resource_id)
VALUES ('icfg_' || :installation, 'resource.updated', 'db_' || :resource);
"""
_WITHOUT_CONSTRAINTS = "CREATE TABLE plain (LIKE vercel_outbox INCLUDING DEFAULTS INCLUDING IDENTITY INCLUDING INDEXES)"


@dataclass(frozen=True, slots=True)
class Case:
    """A table to write to, under certain conditions."""

    name: str
    table: str = "vercel_outbox"
    wakeup: str | None = None
    """WAKEUP of the dispatcher that runs meanwhile; None if there is none."""
    baseline: str = ""
    """The name of the case that it is compared with."""
    at_least: float | None = None
    """The target, as a ratio to that case."""


CASES = (
    Case("a table without constraints", table="plain"),
    Case("the outbox", baseline="a table without constraints", at_least=0.9),
    Case("the outbox, dispatcher busy", wakeup="poll"),
    Case(
        "the outbox with the trigger, dispatcher busy",
        wakeup="notify",
        baseline="the outbox, dispatcher busy",
        at_least=0.9,
    ),
)


def measure(machine: Machine) -> Iterator[Line]:
    """Measures transactions of one INSERT each, from 16 clients of pgbench."""
    rates: dict[str, list[float]] = {case.name: [] for case in CASES}
    for _ in range(machine.rounds):
        for case in CASES:
            rates[case.name].append(_insert(machine, case, seconds=1 if machine.quick else 10))
    for case in CASES:
        value = f"{statistics.median(rates[case.name]):,.0f}/s"
        ratio = median_ratio(rates[case.name], rates[case.baseline]) if case.baseline else None
        unit = f"× {case.baseline}" if case.baseline else ""
        yield Line("partner's cost", case.name, value, ratio, unit, at_least=case.at_least)


def _insert(machine: Machine, case: Case, seconds: int) -> float:
    url = machine.databases["postgresql"].url
    database = open_database(url)
    _prepare(database, case)
    with ExitStack() as stack:
        if case.wakeup is not None:
            stack.enter_context(
                running(dispatcher("run"), settings(url, machine.sink.url, WAKEUP=case.wakeup, RATE_LIMIT="off"))
            )
            _pgbench(url, case.table, seconds=2)
        rate = _pgbench(url, case.table, seconds)
    database.close()
    return rate


def _prepare(database: Database, case: Case) -> None:
    fresh(database)
    with database.engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE IF EXISTS plain")
        connection.exec_driver_sql(_WITHOUT_CONSTRAINTS)
        if case.wakeup == "notify":
            connection.exec_driver_sql(trigger_sql().replace("%", "%%"))


def _pgbench(url: str, table: str, seconds: int) -> float:
    """Returns transactions per second."""
    with tempfile.NamedTemporaryFile("w", suffix=".sql") as script:
        script.write(_SCRIPT.format(table=table))
        script.flush()
        options = ["-n", "-M", "prepared", "-c", str(CLIENTS), "-j", "1", "-T", str(seconds), "-f", script.name]
        command = [find("pgbench", "postgresql"), *options, url]
        output = subprocess.run(command, check=True, capture_output=True, text=True, cwd=Path("/")).stdout
    (rate,) = re.findall(r"^tps = ([\d.]+)", output, re.MULTILINE)
    return float(rate)
