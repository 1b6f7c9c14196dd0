"""The runbook knows every alert, reason, exit code and secret; its commands and queries work on a database with trouble in it."""

import contextlib
import os
import re
import shlex
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from dispatcher.cli.exits import Exit
from dispatcher.policy.decision import DeadLetterReason, PauseReason
from dispatcher.settings.environment import variable_name
from dispatcher.settings.settings import Settings
from tests.deploy.documents import alerts, blocks, commands, console_paths, read, sections, table
from tests.processes.conftest import HTTP, free_port, wait_until

# In one process, which makes the trouble once.
pytestmark = pytest.mark.xdist_group("runbook")

DISPATCHER = Path(sys.executable).with_name("dispatcher")
INSERT = "INSERT INTO vercel_outbox (installation_id, type, resource_id) VALUES ('icfg_1', 'resource.updated', ?)"
# Nothing runs here, no row is malformed, and `check` reports that the only installation is refused.
BACK_OFF = "UPDATE vercel_delivery SET due_at = '2999-01-01 00:00:00.000000' WHERE resource_id = 'db_failing'"
EXITS = {
    "dispatcher health": Exit.UNHEALTHY,
    "dispatcher dead-letters aftermath --since 1h": Exit.NOTHING_MATCHED,
    "dispatcher dead-letters list --reason malformed": Exit.NOTHING_MATCHED,
    "dispatcher dead-letters resolutions": Exit.NOTHING_MATCHED,
    "dispatcher dead-letters discard --reason gone --resource db_1 --dry-run": Exit.NOTHING_MATCHED,
    "dispatcher installations list --failing": Exit.NOTHING_MATCHED,
    "dispatcher installations list --behind": Exit.NOTHING_MATCHED,
    "dispatcher check": Exit.FAILED,
    "dispatcher check --installation icfg_1": Exit.FAILED,
    "dispatcher check --live --installation icfg_1": Exit.FAILED,
}
ENTRIES = {
    *(f"Dead letter `{reason}`" for reason in DeadLetterReason),
    *(f"Pause `{reason}`" for reason in PauseReason),
    *(f"Exit code {code.value}" for code in Exit),
    *alerts(),
}
LEAKS = {
    "Leaked token",
    "Leaked database password",
    "Leaked OAuth client secret",
    "Suspected core dump",
    "Suspected image or package",
}
ROTATIONS = {"Rotate a token", "Rotate the database password", "Rotate the OAuth client secret"}
CHAPTERS = {"Runbook", "Alerts", "Dead letters", "Pauses", "Uninstalls", "Rotation", "Leaks", "Exit codes"}
COMMANDS = [shlex.join(words) for words in commands("runbook.md")]


@dataclass(frozen=True)
class Trouble:
    """A database with a dead letter and a paused installation, and the settings that lead to it."""

    database: Path
    environment: dict[str, str]

    def run(self, directory: Path, *words: str) -> subprocess.CompletedProcess[str]:
        """The command on a copy of the database."""
        if self.database.exists():
            shutil.copy(self.database, directory / "dispatcher.db")
        return subprocess.run(
            [DISPATCHER, *words], check=False, env=self.environment, cwd=directory, capture_output=True, text=True
        )


@pytest.fixture(scope="module")
def trouble(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trouble]:
    """Made by the commands themselves, against the sandbox."""
    directory = tmp_path_factory.mktemp("trouble")
    url = f"http://127.0.0.1:{free_port()}"
    kept = {name: value for name, value in os.environ.items() if not name.startswith("DISPATCHER_")}
    settings = {
        "DATABASE_URL": "sqlite:///dispatcher.db",
        "VERCEL_BASE_URL": url,
        "ALLOW_INSECURE_BASE_URL": "true",
        "VERCEL_TOKEN": "t0ken",
        "OPS_PORT": "1",
    }
    made = Trouble(directory / "trouble.db", kept | {f"DISPATCHER_{name}": value for name, value in settings.items()})
    with subprocess.Popen([DISPATCHER, "sandbox", "--port", url.rpartition(":")[2]], env=kept) as sandbox:
        try:
            assert made.run(directory, "migrate").returncode == 0
            wait_until(lambda: HTTP.get(f"{url}/faults").status_code == 200)
            for resource, status in (("db_refused", 400), ("db_failing", 503), ("db_unauthorized", 401)):
                HTTP.post(f"{url}/faults", json={"resource_id": resource, "status": status})
                with contextlib.closing(sqlite3.connect(directory / "dispatcher.db")) as connection, connection:
                    connection.execute(INSERT, (resource,))
                made.run(directory, "drain")
            with contextlib.closing(sqlite3.connect(directory / "dispatcher.db")) as connection, connection:
                connection.execute(BACK_OFF)
            (directory / "dispatcher.db").rename(made.database)
            yield made
        finally:
            sandbox.terminate()


def test_it_has_an_entry_for_everything_and_for_nothing_else() -> None:
    titles = [section.title for section in sections("runbook.md")]
    assert len(titles) == len(set(titles))
    assert set(titles) == CHAPTERS | ENTRIES | LEAKS | ROTATIONS


@pytest.mark.parametrize("entry", sorted(ENTRIES | LEAKS))
def test_each_entry_says_what_it_means_what_to_check_and_how_to_mend_it(entry: str) -> None:
    assert parts_of(entry) == ["Means", "Check", "Fix"]


@pytest.mark.parametrize("entry", sorted(entry for entry in ENTRIES if not entry.startswith("Exit code")))
def test_each_trouble_has_its_page_of_the_console(entry: str) -> None:
    """`tests/console/test_deep_links.py` opens it."""
    (path,) = console_paths()[entry]
    if not entry.startswith("Dispatcher"):
        assert f"reason={entry.split('`')[1]}" in path


@pytest.mark.parametrize("entry", sorted(ROTATIONS))
def test_each_rotation_says_what_to_do_and_how_to_see_that_it_worked(entry: str) -> None:
    assert parts_of(entry) == ["Do", "Verify"]


def parts_of(entry: str) -> list[str]:
    (section,) = (one for one in sections("runbook.md") if one.title == entry)
    return re.findall(r"(?m)^- \*\*(\w+):\*\* \w", section.text.replace("`", ""))


def test_the_table_of_rotation_has_every_secret() -> None:
    told = " ".join(table("runbook.md", "Rotation"))
    for field in (
        "database_url",
        "vercel_token",
        "credentials_query",
        "credentials_dir",
        "oauth_token_url",
        "oauth_client_secret",
    ):
        assert variable_name(field) in told


def test_its_links_lead_to_its_own_headings() -> None:
    anchors = {section.anchor for section in sections("runbook.md")}
    assert set(re.findall(r"\]\(#([\w-]+)\)", read("runbook.md"))) <= anchors


def test_every_setting_it_names_exists() -> None:
    settings = {variable_name(field) for field in Settings.model_fields}
    named = set(re.findall(r"DISPATCHER_\w+", read("runbook.md")))
    assert named <= settings | {f"{name}_FILE" for name in settings}


@pytest.mark.gate
@pytest.mark.parametrize("command", sorted({line for line in COMMANDS if line.startswith("dispatcher ")}))
def test_each_command_works(trouble: Trouble, tmp_path: Path, command: str) -> None:
    done = trouble.run(tmp_path, *shlex.split(command)[1:])
    assert done.returncode == EXITS.get(command, Exit.DONE), done.stdout + done.stderr


@pytest.mark.gate
@pytest.mark.parametrize("query", blocks("runbook.md", "sql"))
def test_each_query_finds_the_trouble(trouble: Trouble, query: str) -> None:
    with contextlib.closing(sqlite3.connect(trouble.database)) as connection:
        assert connection.execute(query).fetchall()


def test_whatever_else_is_asked_is_the_ops_port() -> None:
    others = {line for line in COMMANDS if not line.startswith("dispatcher ")}
    assert others == {f"curl http://127.0.0.1:{Settings().ops_port}/readyz"}
