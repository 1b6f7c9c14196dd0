"""The peers: how each is started, and how an application hands it events, each with a number `n`."""

import json
import shutil
import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from tests.benchmarks.machine import find
from tests.benchmarks.programs import dispatcher, run, settings

ADAPTERS = Path(__file__).with_name("adapters")
INSTALLED = Path("build/peers")
_NUMBERS = "FROM generate_series({first}, {last}) AS n"
_PYTHON, _NODE = "bin/python", "node"
INSTALLATIONS = 2_000


@dataclass(frozen=True, slots=True)
class Peer:
    """A queue that is measured."""

    name: str
    program: str
    """The file name of its adapter; empty for the dispatcher."""
    insert: str
    """SQL that hands over the events from `{first}` to `{last}`."""
    processes: int = 1
    """Worker processes of the dispatcher."""
    targets: tuple[float | None, float | None] = None, None
    """What the dispatcher's events per second ÷ the peer's must reach with one process, and with two."""

    @property
    def is_python(self) -> bool:
        """Whether the peer is written in Python."""
        return self.program.endswith(".py")

    def version(self) -> str:
        """Returns the installed version."""
        if not self.program:
            return version("vercel-outbox-dispatcher")
        if self.is_python:
            (metadata,) = INSTALLED.glob(f"lib/python*/site-packages/{self.name.replace('-', '_')}-*.dist-info")
            return metadata.name.removesuffix(".dist-info").rpartition("-")[2]
        return str(json.loads((INSTALLED / "node_modules" / self.name / "package.json").read_text())["version"])

    def install(self, url: str, sink: str) -> None:
        """Creates its tables."""
        if self.program:
            run(self._command("install", url, sink), directory=INSTALLED)
        else:
            run(dispatcher("migrate"), settings(url, sink))

    def command(self, url: str, sink: str) -> tuple[list[str], dict[str, str]]:
        """Returns the command that runs it, and its environment."""
        if self.program:
            return self._command("run", url, sink), {}
        return dispatcher("run"), settings(url, sink, PROCESSES=str(self.processes))

    def path(self, number: int) -> str:
        """Returns the path of the event's request."""
        return f"/events/{number}" if self.program else f"/v1/installations/icfg_{number % INSTALLATIONS}/events"

    def _command(self, *arguments: str) -> list[str]:
        interpreter = str(INSTALLED.resolve() / _PYTHON) if self.is_python else find(_NODE, "nodejs")
        return [interpreter, self.program, *arguments]


_EVENTS = (
    f"INSERT INTO vercel_outbox (installation_id, type, resource_id)"
    f" SELECT 'icfg_' || n % {INSTALLATIONS}, 'resource.updated', 'db_' || n {_NUMBERS}"
)
PEERS = (
    Peer("dispatcher", "", _EVENTS),
    Peer("dispatcher with two processes", "", _EVENTS, processes=2),
    Peer(
        "graphile-worker",
        "graphile_worker.mjs",
        f"SELECT count(graphile_worker.add_job('send', json_build_object('n', n))) {_NUMBERS}",
        targets=(1.5, None),
    ),
    Peer(
        "pg-boss",
        "pg_boss.mjs",
        f"INSERT INTO pgboss.job (name, data) SELECT 'events', jsonb_build_object('n', n) {_NUMBERS}",
        targets=(0.95, 1.25),
    ),
    Peer(
        "txoutbox",
        "txoutbox_relay.py",
        f"INSERT INTO outbox (topic, payload) SELECT 'events', n::text::bytea {_NUMBERS}",
        targets=(2.0, None),
    ),
    Peer(
        "pgqueuer",
        "pgqueuer_consumer.py",
        "INSERT INTO pgqueuer (priority, entrypoint, payload, status)"
        f" SELECT 0, 'send', n::text::bytea, 'queued' {_NUMBERS}",
    ),
    Peer(
        "faststream-outbox",
        "faststream_outbox_subscriber.py",
        "WITH inserted AS (INSERT INTO outbox (queue, payload, headers) SELECT 'events', n::text::bytea,"
        f""" '{{{{"content-type": "application/json"}}}}' {_NUMBERS} RETURNING id)"""
        " SELECT count(pg_notify('outbox_outbox', 'events')) FROM inserted",
    ),
    Peer(
        "procrastinate",
        "procrastinate_worker.py",
        "INSERT INTO procrastinate_jobs (queue_name, task_name, args)"
        f" SELECT 'events', 'send', jsonb_build_object('n', n) {_NUMBERS}",
    ),
)


def install() -> dict[str, str]:
    """Installs the pinned versions. Returns the peers that could not be installed, with the reason for each."""
    missing: dict[str, str] = {}
    shutil.copytree(ADAPTERS, INSTALLED, dirs_exist_ok=True)
    pip = [str(INSTALLED.resolve() / _PYTHON), "-m", "pip", "install", "--quiet", "--require-hashes"]
    steps: dict[str, list[tuple[list[str], Path | None]]] = {
        ".py": [
            ([sys.executable, "-m", "venv", str(INSTALLED)], None),
            ([*pip, "--requirement", "requirements.txt"], INSTALLED),
        ],
        ".mjs": [(["npm", "ci", "--ignore-scripts", "--silent"], INSTALLED)],
    }
    for suffix, commands in steps.items():
        try:
            for command, directory in commands:
                run(command, directory=directory)
        except (AssertionError, OSError) as error:
            missing |= {peer.name: str(error) for peer in PEERS if peer.program.endswith(suffix)}
    return missing
