"""The units: systemd's own tool finds nothing to say against them."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dispatcher.cli.exits import Exit
from dispatcher.settings.settings import Settings
from tests.conftest import not_tested
from tests.deploy.documents import DEPLOY

UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
UNIT, MIGRATION = DEPLOY / "systemd" / "dispatcher.service", DEPLOY / "systemd" / "dispatcher-migrate.service"
INSTALLED = "/opt/vercel-outbox-dispatcher/bin/dispatcher"


@pytest.fixture(params=UNITS, ids=lambda path: str(path.name))
def unit(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Each of them, with the command where this machine has it."""
    original: Path = request.param
    path = tmp_path / original.name
    path.write_text(original.read_text().replace(INSTALLED, str(Path(sys.executable).with_name("dispatcher"))))
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


def directives(unit: Path = UNIT) -> dict[str, str]:
    return dict(line.split("=", 1) for line in unit.read_text().splitlines() if "=" in line and line[0].isupper())


def test_it_ends_in_time_and_is_not_restarted_for_nothing() -> None:
    lines = directives()
    assert int(lines["TimeoutStopSec"].removesuffix("s")) >= Settings().shutdown_grace + 5
    assert int(lines["RestartPreventExitStatus"]) == Exit.USAGE


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: str(path.name))
def test_it_leaves_no_core_dump(unit: Path) -> None:
    assert directives(unit)["LimitCORE"] == "0"


def test_the_service_does_not_migrate_and_has_another_users_password() -> None:
    service, migration = directives(UNIT), directives(MIGRATION)
    assert "ExecStartPre" not in service
    assert (service["ExecStart"], migration["ExecStart"]) == (f"{INSTALLED} run", f"{INSTALLED} migrate")
    assert service["LoadCredential"] == "database-url:/etc/vercel-outbox-dispatcher/database-url"
    assert migration["LoadCredential"] == "database-url:/etc/vercel-outbox-dispatcher/migrate-database-url"
    assert service["Environment"] == migration["Environment"] == "DISPATCHER_DATABASE_URL_FILE=%d/database-url"


def test_both_are_confined_in_the_same_way() -> None:
    lines = [
        (unit.read_text().partition("CapabilityBoundingSet=")[2]).partition("\n[Install]")[0].strip()
        for unit in (UNIT, MIGRATION)
    ]
    assert lines[0] == lines[1]
