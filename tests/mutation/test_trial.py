"""A trial distinguishes tests that notice a mutant from tests that do not, and a list of survivors without reasons is refused."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.mutation.__main__ import SURVIVORS, may_live

ROOT = Path(__file__).parents[2]
TRIALS = """
import sys
from pathlib import Path
from tests.mutation.mutants import mutants_of
from tests.mutation.trial import load_libraries, survives

load_libraries()
mutant = next(mutants_of(Path("dispatcher/policy/rate_window.py")))
failed = Path(sys.argv[1])
assert survives(mutant, ["tests/unit/test_events.py"], failed)
assert not failed.exists()
assert not survives(mutant, ["tests/unit/test_rate_window.py"], failed)
assert failed.read_text().startswith("tests/unit/test_rate_window.py::test_")
"""


@pytest.mark.gate
def test_a_trial_passes_only_if_no_test_fails(tmp_path: Path) -> None:
    command = [sys.executable, "-c", TRIALS, str(tmp_path / "failed")]
    done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr


def test_each_paragraph_of_survivors_has_its_reason() -> None:
    assert may_live("# It is only slower.\na Not: x\nb Not: y\n\n# Why.\nc Not: z\n") == {
        "a Not: x",
        "b Not: y",
        "c Not: z",
    }
    with pytest.raises(ValueError, match="no reason: b Not: y"):
        may_live("# Why.\na Not: x\n\nb Not: y\n")


def test_each_survivor_of_the_list_is_a_line_of_the_code() -> None:
    for mutant in may_live(SURVIVORS.read_text()):
        path, _, change = mutant.partition(" ")
        _, colon, line = change.partition(": ")
        assert colon, mutant
        assert line in (ROOT / path).read_text(), mutant
