import os
import pty
import re
import signal
import subprocess
import time
from contextlib import suppress
from datetime import timedelta

import sqlalchemy as sa

from dispatcher import store
from dispatcher.database.transactions import Database
from dispatcher.outbox.tables import dispatcher as dispatchers
from dispatcher.outbox.tables import outbox
from tests.cli.conftest import COMMAND, Terminal

OLD = {
    "installation_id": "icfg_1",
    "type": "installation.updated",
    "created_at": sa.text("'2026-01-01 00:00:00.000000'"),
}
NONE_RUNS = "no dispatcher is running: start `dispatcher run`, or wait for the next `dispatcher drain`"


def test_without_problems_it_reports_that_all_is_well(dispatcher: Terminal) -> None:
    ended = dispatcher("status")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith("ok       nothing to worry about\n")
    assert "last request  none known" in ended.out


def test_the_worst_problem_comes_first_with_the_command_that_helps(dispatcher: Terminal, database: Database) -> None:
    with database.engine.begin() as connection:
        row = {"installation_id": "icfg_1", "type": "resource.updated", "resource_id": "db 7"}
        connection.execute(sa.insert(outbox).values(row | {"created_at": sa.text("'2026-01-01 00:00:00.000000'")}))
    first, second, third, fourth, *_ = dispatcher("status").out.splitlines()
    assert first == "PROBLEM  events are waiting, and nothing is being sent: " + NONE_RUNS
    assert second == "         dispatcher check"
    assert re.fullmatch(r"warning  the oldest event \(1\) has waited for \d+d( \d+h)?", third)
    assert fourth == "         dispatcher explain 'db 7' --installation icfg_1"
    (reading,) = dispatcher("status", "--json").rows
    assert reading["concerns"][1]["command"] == ["dispatcher", "explain", "db 7", "--installation", "icfg_1"]
    assert (reading["oldest_event"]["id"], reading["oldest_event"]["resource_id"]) == (1, "db 7")
    assert dispatcher("status").code == 0
    assert dispatcher("status", "--exit-code").code == 4


def test_the_exit_code_is_0_without_a_problem_and_goes_without_watching(dispatcher: Terminal) -> None:
    assert dispatcher("status", "--exit-code").code == 0
    ended = dispatcher("status", "--exit-code", "--watch")
    assert (ended.code, ended.out) == (2, "")
    assert "--exit-code goes without --watch" in ended.complaint


def test_it_shows_what_runs_and_what_ended_without_a_word(dispatcher: Terminal, database: Database) -> None:
    for name in ("one", "two"):
        store.beat(database, store.Heartbeat(name, "1.0", 3, is_outage=name == "one", is_first=True))
    assert "dispatchers   2 running (1.0)\n" in dispatcher("status").out
    (row,) = dispatcher("status", "--json").rows
    assert [(one["name"], one["in_flight"], one["is_running"]) for one in row["dispatchers"]] == [
        ("one", 3, True),
        ("two", 3, True),
    ]
    worst, command, *_ = dispatcher("status").out.splitlines()
    assert worst.startswith("warning  Vercel has been unavailable since ")
    assert worst.endswith(" for 1 of 2 dispatchers, so only probes are sent")
    assert command == "         dispatcher requests --failed"
    with database.engine.begin() as connection:
        long_ago = database.now() - timedelta(hours=3)
        connection.execute(sa.update(dispatchers).values(seen_at=long_ago))
        connection.execute(sa.insert(outbox).values(OLD))
    shown = dispatcher("status").out
    assert "dispatchers   none running; one was last seen 3h ago; two was last seen 3h ago\n" in shown
    assert shown.startswith("PROBLEM  events are waiting, and nothing is being sent: no dispatcher is running: ")


def test_one_screen_is_enough(dispatcher: Terminal) -> None:
    assert len(dispatcher("status").out.splitlines()) <= 24


def test_json_is_one_object_with_stable_keys(dispatcher: Terminal) -> None:
    (row,) = dispatcher("status", "--json").rows
    assert list(row) == [
        "at",
        "concerns",
        "backlog",
        "oldest_event_age_seconds",
        "oldest_event",
        "dead_letters",
        "paused_installations",
        "installations",
        "failing_installations",
        "dispatchers",
        "leases",
        "last_request",
        "recent",
        "database",
    ]
    assert row["database"] == f"sqlite:///{dispatcher.directory}/dispatcher.db"
    assert row["backlog"] == {"outbox": 0, "due": 0, "waiting": 0, "paused": 0, "complete": True}
    assert row["leases"] == {"held": 0, "expired": 0, "holders": []}
    assert row["recent"]["lag_seconds"] == {"median": None, "p95": None, "max": None}


def test_watching_prints_one_reading_after_the_other_until_it_is_interrupted(dispatcher: Terminal) -> None:
    watching = subprocess.Popen(
        [COMMAND, "status", "--watch", "--every", "0.1", "--json"],
        cwd=dispatcher.directory,
        env=dispatcher.environ(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert watching.stdout is not None
    readings = [watching.stdout.readline() for _ in range(3)]
    watching.send_signal(signal.SIGINT)
    _, complaint = watching.communicate(timeout=60)
    assert all(reading.startswith('{"at": ') for reading in readings)
    assert (watching.returncode, complaint) == (130, "")


def press_until_it_ends(command: subprocess.Popen[bytes], terminal: int) -> None:
    """Presses Ctrl-C, and again after ten screens: Python loses an interrupt that comes within a destructor. Reads its last words."""
    with suppress(OSError):  # the terminal is closed
        while command.poll() is None:
            command.send_signal(signal.SIGINT)
            for _ in range(10):
                os.read(terminal, 4_096)


def test_on_a_terminal_watching_refreshes_in_place(dispatcher: Terminal) -> None:
    ours, theirs = pty.openpty()
    watching = subprocess.Popen(
        [COMMAND, "status", "--watch", "--every", "0.1"],
        cwd=dispatcher.directory,
        env=dispatcher.environ() | {"TERM": "xterm"},
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    seen, deadline = b"", time.monotonic() + 60
    while seen.count(b"\x1b[H\x1b[J") < 2 and time.monotonic() < deadline:
        seen += os.read(ours, 4_096)
    press_until_it_ends(watching, ours)
    assert watching.wait(60) == 130
    os.close(ours)
    assert seen.count(b"\x1b[H\x1b[Jok       nothing to worry about") >= 1
