"""The unit: systemd's own tool finds nothing to say against it."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dispatcher.cli.exits import Exit
from dispatcher.settings.settings import Settings
from tests.conftest import not_tested
from tests.deploy.documents import DEPLOY

UNIT = DEPLOY / "systemd" / "dispatcher.service"
INSTALLED = "/opt/vercel-outbox-dispatcher/bin/dispatcher"


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """It, with the command where this machine has it."""
    path = tmp_path / UNIT.name
    path.write_text(UNIT.read_text().replace(INSTALLED, str(Path(sys.executable).with_name("dispatcher"))))
    return path


def analyze(*arguments: object) -> str:
    if (command := shutil.which("systemd-analyze")) is None:
        not_tested("systemd-analyze is not installed (Debian: apt-get install systemd)")
    done = subprocess.run([command, *map(str, arguments)], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.mark.gate
def test_it_is_valid(unit: Path) -> None:
    assert unit.name not in analyze("verify", unit)


@pytest.mark.gate
def test_it_is_locked_down(unit: Path) -> None:
    assert "Overall exposure level" in analyze("security", "--offline=true", "--threshold=20", unit)


def directives() -> dict[str, str]:
    return dict(line.split("=", 1) for line in UNIT.read_text().splitlines() if "=" in line and line[0].isupper())


def test_it_ends_in_time_and_is_not_restarted_for_nothing() -> None:
    lines = directives()
    assert int(lines["TimeoutStopSec"].removesuffix("s")) >= Settings().shutdown_grace + 5
    assert int(lines["RestartPreventExitStatus"]) == Exit.USAGE


def test_it_leaves_no_core_dump() -> None:
    assert directives()["LimitCORE"] == "0"
