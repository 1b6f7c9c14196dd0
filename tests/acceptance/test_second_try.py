"""Second tries of tests with real processes are reported, and only a few are allowed."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HOOKS = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from tests import second_try
from tests.second_try import pytest_collection_modifyitems, pytest_sessionfinish, pytest_terminal_summary
from pathlib import Path
second_try.WITH_SECOND_TRY = [Path(__file__).with_name("processes")]
"""
TESTS = """
import pathlib, pytest

@pytest.mark.parametrize("number", range({flaky}))
def test_flaky(number):
    seen = pathlib.Path(__file__).with_name(f"seen_{{number}}")
    first = not seen.exists()
    seen.touch()
    assert not first, f"the first failure of {{number}}"

def test_broken():
    assert not {broken}
"""


def run(
    directory: Path, *options: str, place: str = "processes", flaky: int = 0, broken: bool = False
) -> tuple[int, str]:
    """Returns the exit code and the output of a run with these tests."""
    tests = directory / place
    tests.mkdir()
    (directory / "conftest.py").write_text(HOOKS)
    (tests / "test_it.py").write_text(TESTS.format(flaky=flaky, broken=broken))
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", f"--rootdir={directory}", *options, str(tests)]
    unmeasured = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    done = subprocess.run(
        command, check=False, cwd=directory, env=unmeasured, capture_output=True, text=True, timeout=100
    )
    return done.returncode, done.stdout


@pytest.mark.parametrize("options", [(), ("-n", "2")], ids=["alone", "shared"])
def test_a_few_tests_that_pass_at_the_second_try_are_printed_with_their_first_failure(
    tmp_path: Path, options: tuple[str, ...]
) -> None:
    code, output = run(tmp_path, *options, flaky=3)
    assert code == 0
    assert len(re.findall(r"FLAKY processes/test_it\.py::test_flaky", output)) == 3
    assert "AssertionError: the first failure of 2" in output


def test_more_than_three_make_the_run_fail(tmp_path: Path) -> None:
    code, output = run(tmp_path, flaky=4)
    assert code == 1
    assert "4 FLAKY tests, at most 3 are allowed" in output


def test_a_test_that_fails_twice_has_failed(tmp_path: Path) -> None:
    code, output = run(tmp_path, broken=True)
    assert code == 1
    assert re.search(r"1 failed.* 1 rerun", output)
    assert "FLAKY" not in output


def test_other_tests_have_one_try(tmp_path: Path) -> None:
    code, output = run(tmp_path, place="contract", flaky=1)
    assert code == 1
    assert "1 failed, 1 passed" in output
