"""Finds out which quick tests run which line, on SQLite."""

import os
import subprocess
import sys
from collections import Counter
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from coverage import CoverageData

from tests.mutation.mutants import Mutant

DIRECTORIES = ("tests/unit", "tests/worker", "tests/contract", "tests/protocol")
MAX_TEST_SECONDS = 20.0
"""The tests of one mutant take at most about this long."""


class QuickTests(NamedTuple):
    """The quick tests, and what is known about each."""

    of_line: dict[tuple[Path, int], set[str]]
    """The tests that run each line of each file."""
    seconds: dict[str, float]
    """How long each test takes."""
    noticed: Counter[str]
    """The number of mutants that each test was the first to notice."""

    def of(self, mutant: Mutant) -> list[str]:
        """Returns the tests that may notice the mutant, the likeliest first: those of its module, then fast ones that noticed others."""
        named = f"/test_{mutant.path.stem}.py::"
        likeliest = sorted(
            self._running(mutant), key=lambda test: (named not in test, self.seconds[test] / (1 + self.noticed[test]))
        )
        ends = accumulate(self.seconds[test] for test in likeliest)
        return [test for test, end in zip(likeliest, ends, strict=True) if end <= MAX_TEST_SECONDS] or likeliest[:1]

    def _running(self, mutant: Mutant) -> set[str]:
        lines = range(mutant.begins, mutant.line + 1)  # coverage does not record every line of a long statement
        return set().union(*(self.of_line.get((mutant.path, line), ()) for line in lines))


def measure(scratch: Path) -> QuickTests:
    """Runs the tests once, and records which of them run each line. Ends the process unless they pass."""
    data_file, report = scratch / "lines", scratch / "tests.xml"
    quick = ["-m", "not gate and not nightly and not variant", "-k", "not postgresql and not mysql"]
    command = [sys.executable, "-m", "pytest", *DIRECTORIES, "-q", *quick, "--cov"]
    recording = ["--cov-context=test", "--cov-report=", f"--junitxml={report}"]
    if subprocess.run(
        [*command, *recording], env=os.environ | {"COVERAGE_FILE": str(data_file)}, check=False
    ).returncode:
        sys.exit("The tests must pass before any mutant is tried.")
    cases = ElementTree.parse(report).iter("testcase")  # noqa: S314 (our own)
    seconds = {_id(case): float(case.get("time", 0)) for case in cases}
    data = CoverageData(str(data_file))
    data.read()
    of_line: dict[tuple[Path, int], set[str]] = {}
    for file in data.measured_files():
        path = Path(file).relative_to(Path.cwd())
        contexts = data.contexts_by_lineno(file)
        tests = {
            line: {context.rpartition("|")[0] for context in names} & seconds.keys() for line, names in contexts.items()
        }
        whole_file = set().union(*tests.values())
        for line, running in tests.items():
            imported = "" in contexts[line]  # a constant, a field, a default
            of_line[path, line] = whole_file if imported else running
    return QuickTests(of_line, seconds, Counter())


def _id(case: ElementTree.Element) -> str:
    return f"{case.get('classname', '').replace('.', '/')}.py::{case.get('name')}"
