"""The `dispatcher` command on a database of its own: in this process, since a process takes a second to start, unless it is under test."""

import contextlib
import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from dispatcher.cli import main
from dispatcher.database import migration
from dispatcher.database.transactions import Database, open_database

COMMAND = Path(sys.executable).with_name("dispatcher")
DEADLINE_SECONDS = 60


@dataclass(frozen=True)
class Ended:
    """The result of a command."""

    code: int
    out: str
    err: str

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Its output with `--json`: one object per line."""
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def log(self) -> list[dict[str, Any]]:
        """Its lines in the log, without their times."""
        lines = [json.loads(line) for line in self.err.splitlines()]
        return [{name: value for name, value in line.items() if name != "timestamp"} for line in lines]

    @property
    def complaint(self) -> str:
        """The one line that it wrote to stderr."""
        (line,) = self.err.splitlines()
        return line


@dataclass(frozen=True)
class Terminal:
    """A directory in which commands are run, without this process's DISPATCHER_… settings."""

    directory: Path
    settings: Mapping[str, str] = field(default_factory=dict)

    def __call__(self, *arguments: object, answer: str = "", **settings: str) -> Ended:
        """Runs `dispatcher` with these arguments; `settings` are DISPATCHER_… settings by their names in lower case."""
        return self.run_in(self.environ(**settings), *arguments, answer=answer)

    def run_in(self, environ: Mapping[str, str], *arguments: object, answer: str = "") -> Ended:
        """The same in this environment."""
        stdout, stderr = StringIO(), StringIO()
        with (
            mock.patch.dict(os.environ, environ, clear=True),
            mock.patch.object(sys, "argv", ["dispatcher", *map(str, arguments)]),
            mock.patch.object(sys, "stdin", StringIO(answer)),
            contextlib.chdir(self.directory),
            contextlib.redirect_stdout(stdout),
            contextlib.redirect_stderr(stderr),
            unchanged_logging(),
            pytest.raises(SystemExit) as ended,
        ):
            main()
        return Ended(int(ended.value.code or 0), stdout.getvalue(), stderr.getvalue())

    def in_process(self, environ: Mapping[str, str], *arguments: object) -> Ended:
        """The same as a process."""
        done = subprocess.run(
            [COMMAND, *map(str, arguments)],
            cwd=self.directory,
            env=dict(environ),
            capture_output=True,
            text=True,
            timeout=DEADLINE_SECONDS,
            check=False,
        )
        assert "Traceback" not in done.stderr, done.stderr
        return Ended(done.returncode, done.stdout, done.stderr)

    def environ(self, **settings: str) -> dict[str, str]:
        """The environment of a command with these settings."""
        given = {"database_url": "sqlite:///dispatcher.db", **self.settings, **settings}
        ours = {f"DISPATCHER_{name.upper()}": value for name, value in given.items()}
        return {k: v for k, v in os.environ.items() if not k.startswith("DISPATCHER_")} | {"COLUMNS": "100"} | ours


@contextlib.contextmanager
def unchanged_logging() -> Iterator[None]:
    """Undoes what a command sets at the root logger: later tests would see lines below a warning."""
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    try:
        yield
    finally:
        root.handlers = handlers
        root.setLevel(level)


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file with fresh tables, which each test copies: quicker than migrating again."""
    path = tmp_path_factory.mktemp("migrated") / "dispatcher.db"
    database = open_database(f"sqlite:///{path}")
    migration.migrate(database)
    database.close()
    return path


@pytest.fixture
def dispatcher(tmp_path: Path, migrated: Path) -> Terminal:
    """Commands on fresh tables."""
    shutil.copy(migrated, tmp_path / "dispatcher.db")
    return Terminal(tmp_path)


@pytest.fixture
def database(dispatcher: Terminal) -> Iterator[Database]:
    """The same database, for the test to prepare and inspect."""
    opened = open_database(f"sqlite:///{dispatcher.directory}/dispatcher.db")
    yield opened
    opened.close()
