"""Releases that work side by side: a rolling upgrade and a rollback under load, between three revisions of the schema.

Today's release is the wheel of this checkout; tomorrow's is the same with one more migration; yesterday's left its tables.
"""

import itertools
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine

from dispatcher.database import migration, revisions
from tests.migration.revisions import FIRST, contract, migrate_to
from tests.processes.conftest import INSERT, Running, Stage, bare, server, wait_until

__all__ = ["bare", "server"]  # fixtures
OTHERS = [pytest.param(name, marks=pytest.mark.nightly) for name in ("sqlite", "mysql")]
pytestmark = [
    pytest.mark.gate,
    pytest.mark.timeout(600),
    pytest.mark.parametrize("server", ["postgresql", *OTHERS], indirect=True),
]

ROOT = Path(__file__).parents[2]
TOMORROW = "0003"
MIGRATION = '''
"""What a later minor release may do: adds a table and columns that may be NULL."""
import sqlalchemy as sa
from alembic import context, op

revision = "0003"
down_revision = "0002"


def upgrade():
    schema = context.config.attributes.get("schema")
    op.create_table("vercel_later", sa.Column("id", sa.Integer, primary_key=True), schema=schema)
    for table in ("outbox", "delivery", "installation", "collector", "attempt", "dead_letter", "dispatcher"):
        op.add_column(f"vercel_{table}", sa.Column("later", sa.String(9)), schema=schema)


def downgrade():
    op.drop_table("vercel_later", schema=context.config.attributes.get("schema"))
'''
RESOURCES = [(f"icfg_{i}", f"db_{i}_{r}") for i in range(4) for r in range(8)]
FAST = {"DISPATCHER_RATE_LIMIT": "off", "DISPATCHER_LEASE": "10s", "DISPATCHER_REQUEST_TIMEOUT": "5s"}


class Release:
    """The commands of one release, from its unpacked wheel."""

    def __init__(self, directory: Path, stage: Stage) -> None:
        self._directory = directory
        self._stage = stage

    def _command(self, *arguments: str) -> tuple[list[str], dict[str, str]]:
        environment = self._stage.environment | FAST | {"PYTHONPATH": str(self._directory), "DISPATCHER_OPS_PORT": "0"}
        return [sys.executable, "-m", "dispatcher", *arguments], environment

    def start(self) -> Running:
        """Starts `run`, and waits until it is ready."""
        command, environment = self._command("run")
        service = Running(command, environment, self._stage.directory, f"service-{len(self._stage.processes)}")
        self._stage.processes.append(service)
        wait_until(lambda: service.poll() is not None or self._stage._is_ready(service))
        assert service.poll() is None, service.log
        return service

    def run(self, *arguments: str) -> str:
        """Runs a command, which must succeed; returns its stdout."""
        command, environment = self._command(*arguments)
        directory = self._stage.directory
        done = subprocess.run(
            command, env=environment, cwd=directory, capture_output=True, text=True, timeout=100, check=False
        )
        assert done.returncode == 0, (arguments, done.stdout, done.stderr)
        return done.stdout


class Load(threading.Thread):
    """Commits one event after another, for each resource in turn, until it is stopped."""

    def __init__(self, partner: Engine) -> None:
        super().__init__()
        self._partner = partner
        self._stopping = threading.Event()
        self.last_commit: dict[tuple[str, str], float] = {}
        """For each resource, the time (epoch seconds) before the commit of its last event."""

    def run(self) -> None:
        for installation, resource in itertools.cycle(RESOURCES):
            if self._stopping.wait(0.05):
                return
            with self._partner.begin() as connection:
                connection.execute(INSERT, {"i": installation, "r": resource})
                began = time.time()
            self.last_commit[installation, resource] = began

    def stop(self) -> None:
        self._stopping.set()
        self.join()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout."""
    directory = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(directory)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (made,) = directory.glob("*.whl")
    return made


@pytest.fixture
def stage(bare: Stage) -> Iterator[Stage]:
    """A stage with the tables of the first revision, and a sandbox without a rate limit."""
    bare.start_sandbox("off", before_it_answers=lambda: migrate_to(bare.database, FIRST))
    yield bare
    bare.end()
    remove_tables(bare)


def remove_tables(stage: Stage) -> None:
    with stage.database.read() as connection:
        is_expanded = sa.inspect(connection).has_table("vercel_later", schema=stage.database.schema)
    if is_expanded:
        contract(stage.database)
    migration.downgrade(stage.database)


@pytest.fixture
def today(wheel: Path, stage: Stage, tmp_path: Path) -> Release:
    return unpack(wheel, tmp_path / "today", stage)


@pytest.fixture
def tomorrow(wheel: Path, stage: Stage, tmp_path: Path) -> Release:
    release = unpack(wheel, tmp_path / "tomorrow", stage)
    (tmp_path / "tomorrow" / "dispatcher" / "migrations" / "versions" / f"{TOMORROW}_later.py").write_text(MIGRATION)
    return release


def unpack(wheel: Path, directory: Path, stage: Stage) -> Release:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(directory)
    return Release(directory, stage)


def stop(*services: Running) -> None:
    """Stops services as a platform does; each must end well."""
    for service in services:
        service.send_signal(signal.SIGTERM)
    for service in services:
        assert service.wait(60) == 0, service.log


def answers(release: Release, revision: str, level: str = "ok") -> None:
    """Asserts that an operator's commands work, and that `check` names the revision."""
    for command in (
        ("status",),
        ("explain", "icfg_1"),
        ("installations", "list"),
        ("installations", "resume", "icfg_1"),
    ):
        release.run(*command)
    (finding,) = (line for line in release.run("check").splitlines() if line.split()[1:2] == ["schema"])
    assert finding.startswith(level)
    assert revision in finding


def test_releases_replace_each_other_under_load_and_nothing_is_lost(
    stage: Stage, today: Release, tomorrow: Release
) -> None:
    load = Load(stage.partner)
    load.start()
    try:
        upgraded_early = today.start()  # before its migration, on yesterday's tables
        wait_until(stage.requests)
        answers(today, FIRST, "warning")
        assert revisions.newest() in today.run("migrate")

        other = today.start()
        assert TOMORROW in tomorrow.run("migrate")
        rescheduled = today.start()  # on tomorrow's tables
        answers(today, TOMORROW)
        assert TOMORROW in today.run("migrate")

        newer = tomorrow.start()
        stop(upgraded_early, other, rescheduled)
        answers(tomorrow, TOMORROW)

        rolled_back = today.start()
        stop(newer)
        load.stop()
        wait_until(lambda: is_delivered(stage, load))
        stop(rolled_back)
    finally:
        load.stop()
    assert stage.count("vercel_dead_letter") == 0
    assert len(load.last_commit) == len(RESOURCES)
    ours = [service for service in stage.processes if service is not stage.sandbox]
    assert [line["event"] for service in ours for line in service.lines if line["level"] == "error"] == []


def is_delivered(stage: Stage, load: Load) -> bool:
    """Whether nothing waits, and for each resource a successful request started after its last commit."""
    if stage.count("vercel_outbox") or stage.count("vercel_delivery"):
        return False
    latest: dict[tuple[str, str], float] = {}
    for one in stage.requests():
        latest[one["installation_id"], one["body"]["event"]["resourceId"]] = one["received_at"]
    unannounced = {key for key, began in load.last_commit.items() if latest.get(key, 0.0) < began}
    assert not unannounced
    return True
