"""Which quick tests run which line, on SQLite."""

import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from coverage import CoverageData

from tests.mutation.mutants import Mutant

DIRECTORIES = ("tests/unit", "tests/worker", "tests/contract", "tests/protocol")
SECONDS_OF_TESTS = 20.0
"""What a mutant gets at most."""


class QuickTests(NamedTuple):
    """The tests that run each line of each file, and how many seconds each of them takes."""

    of_line: dict[tuple[Path, int], set[str]]
    seconds: dict[str, float]

    def of(self, mutant: Mutant) -> list[str]:
        """Those that may notice the mutant, the quickest first."""
        chosen: list[str] = []
        left = SECONDS_OF_TESTS
        for test in sorted(self._running(mutant), key=self.seconds.__getitem__):
            left -= self.seconds[test]
            if left < 0 and chosen:
                break
            chosen.append(test)
        return chosen

    def _running(self, mutant: Mutant) -> set[str]:
        lines = range(mutant.begins, mutant.line + 1)  # of a long statement, not each is noted
        return set().union(*(self.of_line.get((mutant.path, line), ()) for line in lines))


def environment(**others: str) -> dict[str, str]:
    """This one, with the others, and with no database but SQLite."""
    kept = {name: value for name, value in os.environ.items() if name != "CI" and not name.startswith("DISPATCHER_")}
    return kept | others


def measure(scratch: Path) -> QuickTests:
    """Runs the tests once, each line noting by which of them it is run. Ends the process unless they are green."""
    data_file, report = scratch / "lines", scratch / "tests.xml"
    quick = ["-m", "not gate and not nightly and not variant", "-k", "not postgresql and not mysql"]
    command = [sys.executable, "-m", "pytest", *DIRECTORIES, "-q", *quick, "--cov"]
    noting = ["--cov-context=test", "--cov-report=", f"--junitxml={report}"]
    if subprocess.run([*command, *noting], env=environment(COVERAGE_FILE=str(data_file)), check=False).returncode:
        sys.exit("The tests have to be green before anything is changed.")
    cases = ElementTree.parse(report).iter("testcase")  # noqa: S314 (our own)
    seconds = {_id(case): float(case.get("time", 0)) for case in cases}
    data = CoverageData(str(data_file))
    data.read()
    of_line: dict[tuple[Path, int], set[str]] = {}
    for file in data.measured_files():
        for line, contexts in data.contexts_by_lineno(file).items():
            tests = {context.rpartition("|")[0] for context in contexts}
            of_line[Path(file).relative_to(Path.cwd()), line] = tests & seconds.keys()
    return QuickTests(of_line, seconds)


def _id(case: ElementTree.Element) -> str:
    return f"{case.get('classname', '').replace('.', '/')}.py::{case.get('name')}"
