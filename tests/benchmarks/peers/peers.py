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
    """`insert`: SQL that hands over the events from `{first}` to `{last}`. `program`: its adapter, or empty for the dispatcher.

    `on_one_core`: confined to it, as `deploy/README.md` advises for the most throughput.
    """

    name: str
    program: str
    insert: str
    on_one_core: bool = False

    @property
    def is_python(self) -> bool:
        """Whether it stands for the peers in the same language."""
        return self.program.endswith(".py")

    def version(self) -> str:
        """Of what is installed."""
        if not self.program:
            return version("vercel-outbox-dispatcher")
        if self.is_python:
            (found,) = INSTALLED.glob(f"lib/python*/site-packages/{self.name.replace('-', '_')}-*.dist-info")
            return found.name.removesuffix(".dist-info").rpartition("-")[2]
        return str(json.loads((INSTALLED / "node_modules" / self.name / "package.json").read_text())["version"])

    def install(self, url: str, sink: str) -> None:
        """Creates its tables."""
        if self.program:
            run(self._command("install", url, sink), directory=INSTALLED)
        else:
            run(dispatcher("migrate"), settings(url, sink))

    def command(self, url: str, sink: str) -> tuple[list[str], dict[str, str]]:
        """What runs it, and in what environment."""
        if self.program:
            return self._command("run", url, sink), {}
        return dispatcher("run", on_one_core=self.on_one_core), settings(url, sink)

    def path(self, number: int) -> str:
        """Of the request that the event becomes."""
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
    Peer("dispatcher on one core", "", _EVENTS, on_one_core=True),
    Peer(
        "graphile-worker",
        "graphile_worker.mjs",
        f"SELECT count(graphile_worker.add_job('send', json_build_object('n', n))) {_NUMBERS}",
    ),
    Peer(
        "pg-boss",
        "pg_boss.mjs",
        f"INSERT INTO pgboss.job (name, data) SELECT 'events', jsonb_build_object('n', n) {_NUMBERS}",
    ),
    Peer(
        "txoutbox",
        "txoutbox_relay.py",
        f"INSERT INTO outbox (topic, payload) SELECT 'events', n::text::bytea {_NUMBERS}",
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
    """Installs what is pinned; what could not be installed, and why."""
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
