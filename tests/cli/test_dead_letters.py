import os
import pty
import re
import shlex
import subprocess
from collections.abc import Sequence
from functools import partial

import pytest
import sqlalchemy as sa

from dispatcher.database.transactions import Database
from dispatcher.inspection import aftermath, causes
from dispatcher.inspection.dead_letters import ADVICE
from dispatcher.inspection.resolution_groups import group_resolutions
from dispatcher.outbox.tables import dead_letter, outbox
from dispatcher.policy.decision import DeadLetterReason
from tests.cli.conftest import COMMAND, Terminal


def die(database: Database, *resources: str, reason: str = "rejected", installation_id: str = "icfg_1") -> None:
    """Inserts a dead letter of each resource; a malformed one has no subject."""
    now = database.now()
    row = {
        "died_at": now,
        "reason": reason,
        "installation_id": installation_id,
        "type": "resource.updated",
        "events": 1,
        "first_event_id": 1,
        "last_event_id": 1,
        "first_created_at": now,
        "attempts": 2,
        "last_error": "no such plan",
    }
    with database.engine.begin() as connection:
        for resource in resources:
            key = None if reason == "malformed" else f"key of {resource}"
            connection.execute(sa.insert(dead_letter).values(**row, resource_id=resource, subject_key=key))


def in_outbox(database: Database) -> Sequence[str]:
    with database.read() as connection:
        return connection.execute(sa.select(outbox.c.resource_id).order_by(outbox.c.id)).scalars().all()


def answer(dispatcher: Terminal, text: str, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    """Runs the command at a terminal, on which a person gives this answer."""
    controller, terminal = pty.openpty()
    os.write(controller, text.encode())
    with os.fdopen(controller, "wb"), os.fdopen(terminal, "rb") as keyboard:
        return subprocess.run(
            [COMMAND, *arguments],
            cwd=dispatcher.directory,
            env=dispatcher.environ(),
            stdin=keyboard,
            capture_output=True,
            timeout=60,
            check=False,
        )


def test_what_died_is_listed_newest_first_and_cannot_control_the_terminal(
    dispatcher: Terminal, database: Database
) -> None:
    die(database, "db_1", "\x1b[2Jdb_2")
    header, *rows = dispatcher("dead-letters", "list").out.splitlines()
    assert header.split() == ["id", "died", "at", "(UTC)", "reason", "installation", "resource", "status", "error"]
    assert [row.split()[0] for row in rows] == ["2", "1"]
    assert r"\x1b[2Jdb_2" in rows[0]
    ended = dispatcher("dead-letters", "list", "--json", "--limit", "1")
    assert [(row["id"], row["reason"], row["resolution"]) for row in ended.rows] == [(2, "rejected", None)]
    assert "there may be more: --limit, or --before 2" in ended.complaint
    assert [row["id"] for row in dispatcher("dead-letters", "list", "--json", "--before", "2").rows] == [1]
    ended = dispatcher("dead-letters", "list", "--limit", "1", "--resolved")
    assert ended.complaint.endswith("there may be more: --limit")


def test_json_cannot_control_the_terminal_either(dispatcher: Terminal, database: Database) -> None:
    resource = "\x9b2J\x9d0;title\x9c\u202egpj\u2066\U000e0041ü"
    die(database, resource)
    ended = dispatcher("dead-letters", "list", "--json")
    assert ended.out.rstrip("\n").isprintable()
    assert "ü" in ended.out
    assert [row["resource_id"] for row in ended.rows] == [resource]


@pytest.mark.parametrize("as_json", [(), ("--json",)], ids=["text", "json"])
@pytest.mark.parametrize("command", [("dead-letters", "list"), ("dead-letters", "show", 1), ("explain", "icfg_1")])
def test_rows_from_before_the_constraints_cannot_control_the_terminal(
    dispatcher: Terminal, database: Database, command: tuple[object, ...], as_json: tuple[str, ...]
) -> None:
    """In any command that shows ids or texts of such rows."""
    die(database, "\x9b2J\x9d0;title\x9c\u202egpj\u2066\x85\u2028ü", "db_2")
    ended = dispatcher(*command, *as_json)
    lines = ended.out.removesuffix("\n").split("\n")
    assert (ended.code, ended.err) == (0, "")
    assert all(line.isprintable() for line in lines)
    assert "ü" in ended.out


def test_a_dead_letter_is_shown_with_what_to_do(dispatcher: Terminal, database: Database) -> None:
    die(database, "db_1")
    ended = dispatcher("dead-letters", "show", "1")
    assert ended.code == 0
    assert "last error      no such plan" in ended.out
    assert ended.out.rstrip().endswith(ADVICE[DeadLetterReason.REJECTED])
    (row,) = dispatcher("dead-letters", "show", "1", "--json").rows
    assert row["advice"] == ADVICE[DeadLetterReason.REJECTED]
    assert (row["id"], row["attempts"], row["log"]) == (1, 2, [])


def test_a_dry_run_counts_and_changes_nothing(dispatcher: Terminal, database: Database) -> None:
    die(database, *(f"db_{number}" for number in range(61)))
    ended = dispatcher("dead-letters", "replay", "--reason", "rejected", "--dry-run")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out == "61 dead letters: 61 requests, 1m or more at the rate limit; nothing was changed\n"
    (row,) = dispatcher("dead-letters", "replay", "--all", "--dry-run", "--json", rate_limit="10/1s").rows
    assert row == {"dead_letters": 61, "malformed": 0, "requests": 61, "complete": True, "seconds": 6.0, "replayed": 0}
    assert in_outbox(database) == []


def test_a_replay_writes_who_and_why_and_is_done_once(dispatcher: Terminal, database: Database) -> None:
    die(database, "db_1", "db_2")
    command = ("dead-letters", "replay", "--id", "1", "--yes", "--by", "ann", "--note", "fixed")
    ended = dispatcher(*command)
    assert (ended.code, ended.out, ended.err) == (0, "replayed 1 dead letter\n", "")
    again = dispatcher(*command)
    assert (again.code, again.out) == (3, "")
    assert "no unresolved dead letter matches: nothing was changed" in again.complaint
    assert in_outbox(database) == ["db_1"]
    with database.read() as connection:
        row = connection.execute(sa.select(dead_letter).where(dead_letter.c.id == 1)).one()
    assert (row.resolution, row.resolved_by, row.note) == ("replayed", "ann", "fixed")


def test_a_discard_sends_nothing_and_names_the_user(dispatcher: Terminal, database: Database) -> None:
    die(database, "db_1", "db_2")
    (row,) = dispatcher("dead-letters", "discard", "--resource", "db_1", "--yes", "--json").rows
    assert row == {"dead_letters": 1, "discarded": 1}
    listed = dispatcher("dead-letters", "list", "--resolved", "--json").rows
    assert [one["resolution"] for one in listed] == [None, "discarded"]
    assert "@" in listed[1]["resolved_by"]
    assert in_outbox(database) == []


def test_a_malformed_dead_letter_is_not_replayed_and_the_reason_is_shown(
    dispatcher: Terminal, database: Database
) -> None:
    die(database, "db_1", reason="malformed")
    ended = dispatcher("dead-letters", "replay", "--all", "--yes")
    assert (ended.code, ended.out) == (1, "")
    assert ADVICE[DeadLetterReason.MALFORMED] in ended.complaint
    die(database, "db_2")
    ended = dispatcher("dead-letters", "replay", "--all", "--yes")
    assert (ended.code, ended.out) == (0, "replayed 1 dead letter\n")
    assert "1 dead letter cannot be replayed" in ended.complaint


def test_a_person_at_the_terminal_is_asked(dispatcher: Terminal, database: Database) -> None:
    die(database, "db_1")
    refused = answer(dispatcher, "n\n", "dead-letters", "replay", "--all")
    assert refused.returncode == 1
    assert b"nothing was changed" in refused.stderr
    assert in_outbox(database) == []
    confirmed = answer(dispatcher, "y\n", "dead-letters", "replay", "--all")
    assert confirmed.returncode == 0
    assert b"Replay 1 dead letter: 1 request" in confirmed.stderr
    assert in_outbox(database) == ["db_1"]


def test_without_a_terminal_it_needs_the_option_yes(dispatcher: Terminal, database: Database) -> None:
    die(database, "db_1")
    for command in ("replay", "discard"):
        ended = dispatcher("dead-letters", command, "--all", answer="y\n")
        assert (ended.code, ended.out) == (2, "")
        assert "--yes" in ended.complaint
    assert in_outbox(database) == []


NOTHING = [
    ("list",),
    ("list", "--since", "1h", "--installation", "icfg_9"),
    ("show", "9"),
    ("replay", "--id", "9", "--yes"),
    ("discard", "--reason", "gone", "--dry-run"),
    ("causes",),
    ("causes", "--status", "400"),
]


def test_where_nothing_matches_the_exit_code_is_3(dispatcher: Terminal) -> None:
    for arguments in NOTHING:
        ended = dispatcher("dead-letters", *arguments)
        assert (ended.code, ended.out) == (3, ""), arguments
        assert ended.complaint.startswith(("dispatcher: there is no ", "dispatcher: no unresolved dead letter"))


@pytest.mark.parametrize(
    ("filters", "complaint"),
    [
        ((), "dispatcher: no unresolved dead letters"),
        (("--resolved",), "dispatcher: no dead letters"),
        (("--reason", "gone"), "dispatcher: no unresolved dead letter matches"),
        (("--resolved", "--reason", "gone"), "dispatcher: no dead letter matches"),
    ],
)
def test_an_empty_list_is_one_line(dispatcher: Terminal, filters: tuple[str, ...], complaint: str) -> None:
    assert dispatcher("dead-letters", "list", *filters).complaint == complaint


def test_unresolved_ones_come_first_and_the_rest_of_a_long_error_is_marked(
    dispatcher: Terminal, database: Database
) -> None:
    die(database, "db_1", "db_2", "db_3")
    dispatcher("dead-letters", "discard", "--id", "2", "--yes")
    with database.engine.begin() as connection:
        connection.execute(sa.update(dead_letter).where(dead_letter.c.id == 3).values(last_error="x" * 70))
        connection.execute(sa.update(dead_letter).where(dead_letter.c.id == 1).values(last_error="one\ntwo"))
    _, *rows = dispatcher("dead-letters", "list", "--resolved").out.splitlines()
    assert [row.split()[0] for row in rows] == ["3", "1", "2"]
    assert rows[0].endswith(f" {'x' * 59}…")
    assert rows[1].endswith(" one…")
    assert rows[2].endswith(" no such plan")


WRONG = [
    (("list", "--reason", "bad luck"), "--reason"),
    (("list", "--since", "yesterday"), "--since"),
    (("list", "--since", "99999999999d"), "--since"),
    (("list", "--id", "0"), "--id"),
    (("list", "--id", "99999999999999999999"), "--id"),
    (("list", "--limit", "0"), "--limit"),
    (("list", "--before", "0"), "--before"),
    (("list", "--status", "-1"), "--status"),
    (("replay", "--oldest", "0"), "--oldest"),
    (("discard", "--all", "--oldest", "1"), "choose which"),
    (("aftermath", "--since", "yesterday"), "--since"),
    (("list", "--installation", os.fsdecode(b"\xff")), "not valid UTF-8"),
    (("show", "x"), "ID"),
    (("replay",), "choose which"),
    (("discard", "--all", "--id", "1"), "choose which"),
    (("replay", "--all", "--note", "x" * 2_001), "--note"),
]


def test_nonsense_is_one_line_and_exit_code_2(dispatcher: Terminal) -> None:
    for arguments, text in WRONG:
        ended = dispatcher("dead-letters", *arguments)
        assert (ended.code, ended.out) == (2, ""), arguments
        assert text in ended.complaint


@pytest.mark.parametrize("since", ["1h", "2026-01-31", "2026-01-31T12:00+02:00", "0001-01-01"])
def test_since_takes_a_span_or_a_time(dispatcher: Terminal, database: Database, since: str) -> None:
    die(database, "db_1")
    assert len(dispatcher("dead-letters", "list", "--since", since, "--json").rows) == 1


@pytest.mark.parametrize(("command", "done"), [("replay", "replayed"), ("discard", "discarded")])
def test_the_oldest_that_match_are_taken(dispatcher: Terminal, database: Database, command: str, done: str) -> None:
    die(database, "db_0", reason="gone")
    die(database, "db_1", "db_2", "db_3")
    options = ("dead-letters", command, "--error", "no such", "--reason", "rejected", "--oldest")
    assert dispatcher(*options, "2", "--dry-run").out.startswith("2 dead letters")
    assert dispatcher(*options, "2", "--yes").out == f"{done} 2 dead letters\n"
    assert [row["id"] for row in dispatcher("dead-letters", "list", "--json").rows] == [4, 1]
    assert dispatcher("dead-letters", command, "--oldest", "99", "--yes").out == f"{done} 2 dead letters\n"


def test_each_cause_has_the_command_that_lists_it(dispatcher: Terminal, database: Database) -> None:
    die(database, "db_1", "db_2", "db_3")
    die(database, "db_4", installation_id="icfg_2")
    columns, errors = dead_letter.c, {1: "it's plan 1", 2: "it's plan 2", 3: None}
    with database.engine.begin() as connection:
        for id_, error in errors.items():
            connection.execute(
                sa.update(dead_letter).where(columns.id == id_).values(last_status=400, last_error=error)
            )
    options = ("--since", "1h", "--installation", "icfg_1")
    causes = dispatcher("dead-letters", "causes", "--json", *options).rows
    assert [(one["number"], one["status"], one["error_prefix"]) for one in causes] == [
        (2, 400, "it's plan "),
        (1, 400, None),
    ]
    header, *rows = dispatcher("dead-letters", "causes", *options).out.splitlines()
    assert header.split()[-1] == "command"
    for one, row, ids in zip(causes, rows, ([2, 1], [3]), strict=True):
        assert row.endswith(one["command"])
        listed = dispatcher(*shlex.split(one["command"])[1:], "--json")
        assert [letter["id"] for letter in listed.rows] == ids
    assert "--status 0 --error 'no such plan'" in dispatcher("dead-letters", "causes", "--resource", "db_4").out


def test_causes_that_are_left_out_are_reported(
    dispatcher: Terminal, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    die(database, "db_1", "db_2")
    die(database, "db_3", reason="gone")
    ended = dispatcher("dead-letters", "causes", "--json", "--limit", "1")
    assert [one["number"] for one in ended.rows] == [2]
    assert ended.complaint == "the first 1 of 2 causes are listed: --limit"
    monkeypatch.setattr("dispatcher.cli.causes.causes", partial(causes.causes, max_rows=2))
    ended = dispatcher("dead-letters", "causes")
    assert ended.complaint == "only 2 dead letters were read: the numbers are lower bounds; narrow the filter"


def test_the_command_of_a_cause_is_never_wrapped(dispatcher: Terminal, database: Database) -> None:
    """A quoted text that was broken up would select nothing."""
    die(database, "db_1")
    with database.engine.begin() as connection:
        connection.execute(sa.update(dead_letter).values(last_error="no such plan " * 9))
    controller, terminal = pty.openpty()
    with os.fdopen(controller, "rb") as screen, os.fdopen(terminal, "wb") as keyboard:
        environ = dispatcher.environ() | {"COLUMNS": "120"}
        subprocess.run(
            [COMMAND, "dead-letters", "causes"],
            cwd=dispatcher.directory,
            env=environ,
            stdout=keyboard,
            timeout=60,
            check=True,
        )
        shown = os.read(screen.fileno(), 9_999).decode()
    assert "no such plan " * 9 in shown


def test_the_aftermath_of_a_replay_is_shown(dispatcher: Terminal, database: Database) -> None:
    die(database, "db_1", "db_2", "db_3")
    missing = dispatcher("dead-letters", "aftermath")
    assert (missing.code, missing.complaint) == (3, "dispatcher: no dead letter that matches was replayed")
    dispatcher("dead-letters", "replay", "--all", "--yes", "--by", "ann")
    die(database, "db_2", "db_3")
    with database.engine.begin() as connection:
        connection.execute(sa.delete(outbox).where(outbox.c.resource_id == "db_1"))
    ended = dispatcher("dead-letters", "aftermath", "--since", "1h", "--by", "ann")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.splitlines() == [
        "replayed    3 dead letters",
        "delivered   1",
        "waiting     0",
        "died again  2 (dead letters 4, 5)",
    ]
    (row,) = dispatcher("dead-letters", "aftermath", "--id", "1", "--json").rows
    assert row == {
        "dead_letters": 1,
        "subjects": 1,
        "delivered": 1,
        "waiting": 0,
        "died_again": 0,
        "dead_letter_ids": [],
        "complete": True,
    }
    assert "died again  0" in dispatcher("dead-letters", "aftermath", "--id", "1").out


def test_an_aftermath_that_is_not_complete_is_reported(
    dispatcher: Terminal, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    die(database, "db_1", "db_2")
    dispatcher("dead-letters", "replay", "--all", "--yes")
    monkeypatch.setattr("dispatcher.cli.aftermath.aftermath", partial(aftermath.aftermath, limit=1))
    ended = dispatcher("dead-letters", "aftermath")
    assert "replayed    1 dead letter\n" in ended.out
    assert "narrow the filter" in ended.complaint


def test_what_people_did_is_listed_with_the_command_that_shows_what_became_of_it(
    dispatcher: Terminal, database: Database
) -> None:
    missing = dispatcher("dead-letters", "resolutions")
    assert (missing.code, missing.complaint) == (3, "dispatcher: no dead letter was replayed or discarded")
    die(database, "db_1", "db_2", "db_3")
    dispatcher("dead-letters", "replay", "--id", "1", "--yes", "--by", "ann b", "--note", "the plan\nexists")
    dispatcher("dead-letters", "discard", "--id", "2", "--id", "3", "--yes", "--by", "bob")
    for id_, at in (
        (1, "2026-01-31 12:00:59.999999"),
        (2, "2026-01-31 11:59:00.000000"),
        (3, "2026-01-31 11:59:01.000000"),
    ):
        with database.engine.begin() as connection:
            connection.exec_driver_sql("UPDATE vercel_dead_letter SET resolved_at = ? WHERE id = ?", (at, id_))
    ended = dispatcher("dead-letters", "resolutions")
    assert (ended.code, ended.err) == (0, "")
    header, *lines = ended.out.splitlines()
    assert header.split("  ")[0] == "minute (UTC)"
    aftermath_of = "dispatcher dead-letters aftermath --since 2026-01-31T12:00 --until 2026-01-31T12:01 --by 'ann b'"
    discarded = "dispatcher dead-letters list --resolved --id 3 --id 2"
    assert [re.split(r"  +", line) for line in lines] == [
        ["2026-01-31 12:00", "replayed", "1", "ann b", "the plan…", aftermath_of],
        ["2026-01-31 11:59", "discarded", "2", "bob", "-", discarded],
    ]
    first, second = dispatcher("dead-letters", "resolutions", "--json").rows
    assert first["command"] == aftermath_of
    assert second == {
        "minute": "2026-01-31T11:59:00+00:00",
        "resolution": "discarded",
        "by": "bob",
        "note": None,
        "dead_letters": 2,
        "ids": [3, 2],
        "command": discarded,
    }
    for command, rows in ((aftermath_of, 1), (discarded, 2)):
        assert len(dispatcher(*shlex.split(command)[1:], "--json").rows) == rows
    assert "the first 1 are listed" in dispatcher("dead-letters", "resolutions", "--limit", "1").complaint


def test_resolutions_that_were_not_read_are_reported(
    dispatcher: Terminal, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    die(database, "db_1", "db_2")
    dispatcher("dead-letters", "discard", "--all", "--yes")
    monkeypatch.setattr("dispatcher.cli.resolutions.group_resolutions", partial(group_resolutions, scan_limit=1))
    assert "there may be older ones" in dispatcher("dead-letters", "resolutions").complaint
