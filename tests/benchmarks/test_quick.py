"""The benchmarks run; their figures do not matter here."""

import subprocess
import sys

import pytest


@pytest.mark.nightly
@pytest.mark.timeout(600)
def test_every_scenario_runs() -> None:
    command = [sys.executable, "-m", "tests.benchmarks", "--quick"]
    ran = subprocess.run(command, check=False, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    scenarios = {line.split("|")[1].strip() for line in ran.stdout.splitlines() if line.startswith("|")}
    measured = {
        "drain",
        "coalescing",
        "latency",
        "partner's cost",
        "scale",
        "footprint",
        "replicas",
        "console",
        "earlier",
    }
    assert scenarios - {"scenario", "---"} == measured
