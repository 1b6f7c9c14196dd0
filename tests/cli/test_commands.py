"""What all commands have in common: help, errors in one line, exit codes."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa

from dispatcher import __file__ as package_file
from dispatcher import __version__
from dispatcher.cli.demo import command_line
from dispatcher.database import migration
from dispatcher.database.transactions import Database
from dispatcher.outbox.tables import VERSION_TABLE
from tests.cli.conftest import COMMAND, Terminal
from tests.migration.revisions import FIRST, expand

READING = [
    ("publish", "--installation", "icfg_1"),
    ("status",),
    ("explain", "icfg_1"),
    ("dead-letters", "list"),
    ("installations", "pause", "icfg_1"),
]


def commands(dispatcher: Terminal, *group: str) -> list[tuple[str, ...]]:
    """The words of every command."""
    listed = dispatcher(*group, "--help").out.partition("Commands:\n")[2]
    names = [line.split()[0] for line in listed.splitlines() if line.startswith("  ") and line[2] != " "]
    return [command for name in names for command in (commands(dispatcher, *group, name) or [(*group, name)])]


def test_every_command_explains_itself_and_its_options(dispatcher: Terminal) -> None:
    every = commands(dispatcher)
    assert ("publish",) in every
    for command in every:
        help_ = dispatcher(*command, "--help")
        _, _, options = help_.out.partition("Options:\n")
        bare = [line for line in options.splitlines() if line.startswith("  --") and len(line.split("  ")) < 3]
        assert help_.code == 0
        assert len(help_.out.partition("\n\n")[2].split("\n\n")[0]) > 20, f"{command} has no description"
        assert not [line for line in bare if len(line) < 28], f"{command} has options without an explanation"


def test_help_has_a_short_option_and_its_summaries_are_whole(dispatcher: Terminal) -> None:
    environ = dispatcher.environ() | {"COLUMNS": "80"}
    for command in [(), ("dead-letters",), ("installations",), *commands(dispatcher)]:
        help_ = dispatcher.run_in(environ, *command, "-h")
        assert help_.code == 0, command
        assert help_.out == dispatcher.run_in(environ, *command, "--help").out
        assert "..." not in help_.out.partition("\n\n")[2], command


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--nope",), "dispatcher: No such option: --nope. See `dispatcher --help`."),
        (("stats",), "dispatcher: No such command 'stats'. Did you mean 'status'? See `dispatcher --help`."),
        (
            ("dead-letters", "list", "--reason", "x"),
            "dispatcher: Invalid value for '--reason': 'x' is not one of 'rejected'",
        ),
    ],
)
def test_a_usage_error_is_whole_sentences(dispatcher: Terminal, arguments: tuple[str, ...], complaint: str) -> None:
    assert dispatcher(*arguments).complaint.startswith(complaint)


@pytest.mark.parametrize("arguments", [("publish",), ("nonsense",), ("publish", "--installation", "a b"), ("--nope",)])
def test_wrong_usage_is_one_line_and_exit_code_2(dispatcher: Terminal, arguments: tuple[str, ...]) -> None:
    ended = dispatcher(*arguments)
    assert (ended.code, ended.out) == (2, "")
    assert ended.complaint.startswith("dispatcher: ")


@pytest.mark.parametrize("steering", ["\x9b2J", "\x85second line", "\u202egpj", "\x1b[2J"])
def test_an_error_cannot_control_the_terminal(dispatcher: Terminal, steering: str) -> None:
    ended = dispatcher("status", f"--no{steering}")
    assert ended.code == 2
    assert ended.complaint.isprintable()


def test_a_process_ends_with_the_same_code_and_line(dispatcher: Terminal) -> None:
    environ = dispatcher.environ()
    for command, code in (("status", "--json", "--nope"), 2), (("dead-letters", "show", "7"), 3), (("status",), 0):
        ended = dispatcher.in_process(environ, *command)
        assert ended.code == dispatcher(*command).code == code
        assert (ended.out == "", ended.err != "") == (code != 0, code != 0)


@pytest.mark.parametrize("option", ["--version", "-V"])
def test_the_version_is_printed_with_the_name_of_the_package(dispatcher: Terminal, option: str) -> None:
    ended = dispatcher(option)
    assert (ended.code, ended.out, ended.err) == (0, f"vercel-outbox-dispatcher {__version__}\n", "")


def test_the_package_can_be_run_where_the_command_is_not_on_the_path(dispatcher: Terminal) -> None:
    command = [sys.executable, "-m", "dispatcher"]
    environ = dispatcher.environ() | {"PYTHONPATH": str(Path(package_file).parents[1])}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*command, *arguments],
            cwd=dispatcher.directory,
            env=environ,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    assert run("--version").stdout == f"vercel-outbox-dispatcher {__version__}\n"
    assert run("publish", "--installation", "icfg_1").returncode == 0
    refused = run("status", "--nope")
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert "See `python -m dispatcher status --help`" in refused.stderr


@pytest.mark.parametrize(
    ("program", "command"),
    [("/usr/bin/dispatcher", "/usr/bin/dispatcher"), ("/app/dispatcher/__main__.py", "python -m dispatcher")],
)
def test_the_demo_shows_commands_as_this_one_was_called(program: str, command: str) -> None:
    assert command_line(program) == command


def test_without_arguments_the_commands_are_listed(dispatcher: Terminal) -> None:
    ended = dispatcher()
    assert ended.code == 2
    assert "Commands:" in ended.err


@pytest.mark.parametrize("command", READING)
def test_a_missing_database_file_is_one_line_and_is_not_created(tmp_path: Path, command: tuple[str, ...]) -> None:
    ended = Terminal(tmp_path)(*command)
    assert ended.code == 1
    assert "there is no database file dispatcher.db: run `dispatcher migrate`" in ended.complaint
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", READING)
def test_an_unmigrated_database_is_one_line(tmp_path: Path, command: tuple[str, ...]) -> None:
    (tmp_path / "dispatcher.db").touch()
    ended = Terminal(tmp_path)(*command)
    assert ended.code == 1
    assert "run `dispatcher migrate`" in ended.complaint


@pytest.mark.parametrize("command", READING)
def test_a_newer_database_is_one_line(dispatcher: Terminal, database: Database, command: tuple[str, ...]) -> None:
    with database.engine.begin() as connection:
        connection.execute(sa.text(f"UPDATE {VERSION_TABLE} SET version_num = '9999'"))
    ended = dispatcher(*command)
    assert ended.code == 1
    assert "9999" in ended.complaint
    assert "upgrade it" in ended.complaint


@pytest.mark.parametrize("command", [*READING, ("check",), ("drain",), ("migrate",)])
@pytest.mark.parametrize(
    "change", [expand, lambda database: migration.downgrade(database, FIRST)], ids=["newer", "older"]
)
def test_another_revision_of_the_same_major_version_is_as_good(
    dispatcher: Terminal, database: Database, command: tuple[str, ...], change: Callable[[Database], None]
) -> None:
    settings = {"vercel_token": "t0ken", "vercel_base_url": "http://127.0.0.1:9", "allow_insecure_base_url": "true"}
    before = dispatcher(*command, **settings)
    change(database)
    after = dispatcher(*command, **settings)
    assert after.code == before.code != 1 or command == ("check",), after.err
    assert "PROBLEM  schema" not in after.out


@pytest.mark.parametrize("url", ["postgresql://me:hush@127.0.0.1:1/app", "mysql://me:hush@127.0.0.1:1/app"])
def test_an_unreachable_database_is_one_line_and_exit_code_75(dispatcher: Terminal, url: str) -> None:
    ended = dispatcher(*READING[0], database_url=url)
    assert ended.code == 75
    assert "cannot be reached" in ended.complaint
    assert "hush" not in ended.err


@pytest.mark.parametrize("command", [*READING, ("migrate",), ("run",), ("drain",), ("check",)])
def test_a_forgotten_database_is_one_line_and_exit_code_2(tmp_path: Path, command: tuple[str, ...]) -> None:
    terminal = Terminal(tmp_path)
    environ = {name: value for name, value in terminal.environ().items() if name != "DISPATCHER_DATABASE_URL"}
    ended = terminal.run_in(environ, *command)
    assert ended.code == 2
    assert "DISPATCHER_DATABASE_URL is not set" in ended.complaint
    assert "sqlite:///dispatcher.db" in ended.complaint
    assert list(tmp_path.iterdir()) == []


def test_settings_that_cannot_be_used_are_one_line_and_exit_code_2(dispatcher: Terminal) -> None:
    ended = dispatcher(*READING[0], leese="60s", concurrency="none")
    assert ended.code == 2
    assert "DISPATCHER_LEESE" in ended.complaint
    assert "DISPATCHER_CONCURRENCY" in ended.complaint


def test_a_reader_that_closes_the_pipe_causes_no_traceback(dispatcher: Terminal) -> None:
    read, write = os.pipe()
    os.close(read)
    with open(write, "wb") as broken:
        done = subprocess.run(
            [COMMAND, "schema", "--dialect", "mysql"],
            env=dispatcher.environ(),
            stdout=broken,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr == ""
