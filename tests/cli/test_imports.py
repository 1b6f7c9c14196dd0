"""The public package: the modules that a publishing partner's process loads, the version, the type of an event."""

import os
import re
import subprocess
import sys
from importlib import metadata
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

import dispatcher

PUBLISHING = {"dispatcher", "sqlalchemy", "pydantic"}
# Their own dependencies; the examples install nothing else.
THEIRS = {"annotated_types", "greenlet", "pydantic_core", "typing_extensions", "typing_inspection"}
OPTIONAL = {"opentelemetry"}
LOADED = "import sys; before = set(sys.modules); import {module}; print(*(sys.modules.keys() - before))"
# SQLAlchemy 2.1 installs greenlet, which its async classes need, only with its extra `asyncio`.
WITHOUT_GREENLET = """
import asyncio, sqlite3, sys

sys.modules["greenlet"] = None
import aiosqlite
from sqlalchemy import create_engine
from sqlalchemy.orm import Session

from dispatcher import ResourceUpdated, apublish, publish
from dispatcher.testing import Outbox, assert_announced, create_tables

event = ResourceUpdated(installation_id="icfg_1", resource_id="db_1")
engine = create_engine(f"sqlite:///{sys.argv[1]}")
create_tables(engine)
with Session(engine) as session, session.begin():
    publish(session, event)
    assert_announced(session, event)
with sqlite3.connect(sys.argv[1]) as connection:
    publish(connection, event)
    assert_announced(connection, event, event)

async def announce():
    async with aiosqlite.connect(sys.argv[1]) as connection:
        outbox = await Outbox.aopen(connection)
        await apublish(connection, event)
        await outbox.aassert_announced(event)

asyncio.run(announce())
"""


@pytest.mark.parametrize("module", ["dispatcher", "dispatcher.testing"])
def test_importing_the_producer_api_loads_nothing_of_the_service(module: str) -> None:
    assert PUBLISHING <= load(module) <= PUBLISHING | THEIRS | OPTIONAL


def test_the_same_question_finds_what_the_service_does_load() -> None:
    assert "httptools" in load("dispatcher.transport.http1")


def test_publishing_without_an_async_sqlalchemy_needs_no_greenlet(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WITHOUT_GREENLET, str(tmp_path / "own.db")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_only_the_console_loads_what_its_pages_need() -> None:
    script = (
        "import sys, dispatcher.cli, dispatcher.service.service, dispatcher.service.drain, dispatcher.sandbox\n"
        "print(*(name for name in ('jinja2', 'dispatcher.console') if name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"


@pytest.mark.parametrize("missing", ["typer", "alembic"])
def test_a_command_without_the_packages_of_its_extra_is_one_line(tmp_path: Path, missing: str) -> None:
    """Some of them are imported by the commands that need them only."""
    done = run_without(missing, tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(
        rf"dispatcher: the package {missing} is not installed: .* with its extra \[service\], .*\n", done.stderr
    )


def test_a_module_of_our_own_that_is_missing_is_a_bug_and_no_extra(tmp_path: Path) -> None:
    done = run_without("dispatcher.cli", tmp_path)
    assert done.returncode == 1
    assert "ModuleNotFoundError" in done.stderr
    assert "[service]" not in done.stderr


def test_the_commands_load_nothing_that_only_draws_on_terminals() -> None:
    script = (
        "import sys; from dispatcher.__main__ import main; sys.argv[1:] = ['--version']\n"
        "try: main()\nfinally: print(*(name for name in ('rich.console', 'pygments') if name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[1:] == [""]


def test_the_version_is_that_of_the_installed_package() -> None:
    assert dispatcher.__version__ == metadata.version("vercel-outbox-dispatcher")


def test_the_package_works_without_being_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata.Distribution, "discover", lambda **_: iter(()))
    assert dispatcher.__version__ == "0+unknown"


def test_importing_looks_no_version_up() -> None:
    """It means searching every directory that packages are installed in."""
    script = "from importlib import metadata; metadata.version = metadata.distribution = None; import dispatcher"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_an_unknown_name_of_the_package_is_an_error() -> None:
    with pytest.raises(AttributeError, match="module 'dispatcher' has no attribute 'evnt'"):
        dispatcher.evnt  # type: ignore[attr-defined] # noqa: B018 (under test)


def test_every_event_is_of_the_exported_type() -> None:
    events: list[dispatcher.Event] = [
        dispatcher.ResourceUpdated(installation_id="icfg_1", resource_id="db_1"),
        dispatcher.InstallationUpdated(installation_id="icfg_1"),
    ]
    assert all(isinstance(event, dispatcher.Event) for event in events)
    assert not isinstance("resource.updated", dispatcher.Event)


def run_without(missing: str, directory: Path) -> subprocess.CompletedProcess[str]:
    """Runs `dispatcher migrate` where this package is not installed."""
    script = f"import sys; sys.modules['{missing}'] = None; from dispatcher.__main__ import main; main()"
    environment = os.environ | {"DISPATCHER_DATABASE_URL": f"sqlite:///{directory}/dispatcher.db"}
    command = [sys.executable, "-c", script, "migrate"]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def load(module: str) -> set[str]:
    """Returns the installed packages that a fresh interpreter loads with `module`."""
    command = [sys.executable, "-c", LOADED.format(module=module)]
    modules = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return {name.partition(".")[0] for name in modules} & packages_distributions().keys()
