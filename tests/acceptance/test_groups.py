"""Tests of one group share a process, so that what they need is made once, and start before all others."""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
HOOKS = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from tests.groups import pytest_collection_finish
"""
TESTS = """
import pytest

@pytest.mark.parametrize("number", range(8))
def test_alone(number): ...

@pytest.mark.xdist_group("together")
@pytest.mark.parametrize("number", range(8))
def test_together(number): ...
"""


def test_a_group_runs_in_one_process_and_first_under_names_that_can_be_run_again(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(HOOKS)
    (tmp_path / "test_it.py").write_text(TESTS)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", f"--rootdir={tmp_path}", "-v", "-n", "2"]
    unmeasured = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    output = subprocess.run(
        [*command, "--dist", "loadgroup", str(tmp_path)],
        check=False,
        cwd=tmp_path,
        env=unmeasured,
        capture_output=True,
        text=True,
        timeout=100,
    ).stdout
    passed = re.findall(r"^\[(gw\d)\] .*PASSED (.*?) *$", output, re.MULTILINE)
    assert len(passed) == 16, output
    (process,) = {process for process, name in passed if "together" in name}
    names = [name for one, name in passed if one == process]
    assert names[:8] == [f"test_it.py::test_together[{number}]" for number in range(8)]
