"""The limits that `run` and `drain` set for their own process before anything else."""

import subprocess
import sys
from pathlib import Path

import pytest

from dispatcher.service import process_limits

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux's")

# Both commands fail early, since there are no tables; the limits that they have set by then are printed at exit.
COMMAND = """
import atexit, ctypes, resource, sys
from dispatcher.cli import main

def show():
    dumpable = ctypes.CDLL(None).prctl(3, 0, 0, 0, 0)
    print(*resource.getrlimit(resource.RLIMIT_NOFILE), *resource.getrlimit(resource.RLIMIT_CORE), dumpable)

atexit.register(show)
core = resource.getrlimit(resource.RLIMIT_CORE)[1]
resource.setrlimit(resource.RLIMIT_CORE, (core, core))
resource.setrlimit(resource.RLIMIT_NOFILE, (100, 150))
main()
"""


@pytest.mark.parametrize("command", ["run", "drain"])
def test_descriptors_up_to_the_hard_limit_and_no_core_dumps(tmp_path: Path, command: str) -> None:
    environment = {"DISPATCHER_VERCEL_TOKEN": "t0ken", "DISPATCHER_DATABASE_URL": f"sqlite:///{tmp_path}/none.db"}
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, command], check=False, capture_output=True, text=True, env=environment
    )
    assert done.returncode == 1, done.stderr
    assert done.stdout == "150 150 0 0 0\n"


def test_a_hard_limit_that_is_not_granted_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise ValueError("current limit exceeds maximum limit")

    monkeypatch.setattr("resource.setrlimit", refuse)
    process_limits.raise_descriptor_limit()
