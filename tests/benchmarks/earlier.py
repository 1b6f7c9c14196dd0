"""Earlier: MariaDB and SQLite, compared with an early version of the dispatcher, which is installed from the repository's history."""

import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.benchmarks.drain import Measured, drain
from tests.benchmarks.machine import Machine
from tests.benchmarks.programs import PROGRAM, run
from tests.benchmarks.table import Line, median_ratio

REVISION = "d56139b"
DATABASES = ("mysql", "sqlite")
INSTALLATIONS = 2_000
INSTALLED = Path("build/earlier")


def measure(machine: Machine) -> Iterator[Line]:
    """Measures events of distinct subjects with both versions, by turns. Raises AssertionError if the early one cannot be installed."""
    programs = PROGRAM, _install()
    events = machine.size(30_000)
    for database in (one for one in DATABASES if one in machine.databases):
        server, installations = machine.databases[database], min(INSTALLATIONS, events)
        measured = [Measured() for _ in programs]
        for _ in range(machine.rounds):
            for program, rounds in zip(programs, measured, strict=True):
                rounds.add(*drain(server, machine.sink, events, installations=installations, program=program))
        yield from _lines(database, *measured, events=events)


def _lines(database: str, now: Measured, then: Measured, *, events: int) -> Iterator[Line]:
    value = f"{statistics.median(now.rates):,.0f}/s, then {statistics.median(then.rates):,.0f}/s"
    yield Line("earlier", database, value, median_ratio(now.rates, then.rates), f"× {REVISION}", at_least=2)
    value = f"{now.processor(events)}, then {then.processor(events)}"
    workers = [used.worker for used in now.used], [used.worker for used in then.used]
    yield Line("earlier", f"{database}, CPU per 1,000", value, median_ratio(*workers), f"× {REVISION}, worker")


def _install() -> Path:
    """Returns its program."""
    source = INSTALLED / "source"
    source.mkdir(parents=True, exist_ok=True)
    archive = subprocess.run(["git", "archive", REVISION], check=False, capture_output=True)
    assert archive.returncode == 0, f"{REVISION} is not in this clone: {archive.stderr.decode()}"
    subprocess.run(["tar", "--extract", "--directory", str(source)], check=True, input=archive.stdout)
    run([sys.executable, "-m", "venv", str(INSTALLED)])
    pip = [str(INSTALLED / "bin/python"), "-m", "pip", "install", "--quiet"]
    run([*pip, "--require-hashes", *(f"--requirement={source}/requirements{one}.txt" for one in ("", "-build"))])
    run([*pip, "--no-deps", "--no-build-isolation", str(source)])
    return INSTALLED.resolve() / "bin/dispatcher"
