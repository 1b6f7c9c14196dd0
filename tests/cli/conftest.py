"""The real `dispatcher` command, each time in a process of its own, on a database of its own."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from dispatcher import schema
from dispatcher.cli import main
from dispatcher.database import Database, open_database

COMMAND = Path(sys.executable).with_name("dispatcher")
DEADLINE = 30


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Its result with `--json`: one object a line."""
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def complaint(self) -> str:
        """The one line that it wrote to stderr."""
        (line,) = self.err.splitlines()
        return line


@dataclass(frozen=True)
class Terminal:
    """A directory in which commands are run, with nothing of this process's settings."""

    directory: Path
    settings: Mapping[str, str] = field(default_factory=dict)

    def __call__(self, *arguments: object, answer: str = "", **settings: str) -> Ended:
        """Runs `dispatcher` with these arguments, and `DISPATCHER_…` settings by their names in small letters."""
        return self.run_in(self.environ(**settings), *arguments, answer=answer)

    def run_in(self, environ: Mapping[str, str], *arguments: object, answer: str = "") -> Ended:
        """The same in an environment that the test has put together."""
        done = subprocess.run(
            [COMMAND, *map(str, arguments)],
            cwd=self.directory,
            env=dict(environ),
            input=answer,
            capture_output=True,
            text=True,
            timeout=DEADLINE,
            check=False,
        )
        assert "Traceback" not in done.stderr, done.stderr
        return Ended(done.returncode, done.stdout, done.stderr)

    def environ(self, **settings: str) -> dict[str, str]:
        """What a command's process finds in its environment."""
        ours = {f"DISPATCHER_{name.upper()}": value for name, value in {**self.settings, **settings}.items()}
        return {k: v for k, v in os.environ.items() if not k.startswith("DISPATCHER_")} | {"COLUMNS": "100"} | ours


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file with fresh tables, to be copied: quicker than migrating for each test."""
    path = tmp_path_factory.mktemp("migrated") / "dispatcher.db"
    database = open_database(f"sqlite:///{path}")
    schema.migrate(database)
    database.close()
    return path


@pytest.fixture
def dispatcher(tmp_path: Path, migrated: Path) -> Terminal:
    """Commands on fresh tables in the default place."""
    shutil.copy(migrated, tmp_path / "dispatcher.db")
    return Terminal(tmp_path)


@pytest.fixture
def here(
    dispatcher: Terminal, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Ended]:
    """The same within this process, for many short commands: a process takes a second to begin."""
    for name in os.environ:
        if name.startswith("DISPATCHER_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(dispatcher.directory)
    monkeypatch.setenv("COLUMNS", "100")

    def run(*arguments: str) -> Ended:
        monkeypatch.setattr(sys, "argv", ["dispatcher", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        return Ended(int(ended.value.code or 0), said.out, said.err)

    return run


@pytest.fixture
def database(dispatcher: Terminal) -> Iterator[Database]:
    """The same database, for the test to prepare and to look into."""
    opened = open_database(f"sqlite:///{dispatcher.directory}/dispatcher.db")
    yield opened
    opened.close()
