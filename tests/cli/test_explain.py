import os
import pty
import subprocess

from dispatcher import store
from dispatcher.database.transactions import Database
from dispatcher.outbox.events import ResourceUpdated
from dispatcher.outbox.publisher import insert_event
from dispatcher.store import installations
from dispatcher.store.dead_letters import Signature
from tests.cli.conftest import COMMAND, Terminal

KEYS = [
    "at",
    "what",
    "message",
    "installation_id",
    "type",
    "resource_id",
    "product_id",
    "status",
    "duration_ms",
    "decision",
    "reason",
    "vercel_id",
    "attempt",
    "outcome",
    "dead_letter_id",
]


def publish(database: Database, *resources: str) -> None:
    with database.engine.begin() as connection:
        for resource in resources:
            connection.execute(insert_event(ResourceUpdated(installation_id="icfg_1", resource_id=resource)))


def test_it_shows_what_happened_and_what_happens_next(dispatcher: Terminal, database: Database) -> None:
    publish(database, "db_1")
    store.collect(database, 500)
    installations.pause(database, "icfg_1")
    ended = dispatcher("explain", "db_1")
    assert (ended.code, ended.err) == (0, "")
    about, _, *lines = ended.out.splitlines()
    assert about == "resource db_1 of installation icfg_1"
    assert [line.split()[0] for line in (lines[0], lines[5])] == ["at", "-"]
    assert lines[1].endswith("event 1 was written")
    assert lines[2].endswith("the installation was paused: operator")
    assert "nothing is sent until `dispatcher installations resume icfg_1`" in lines[5]


def test_the_product_is_shown_wherever_the_event_is(dispatcher: Terminal, database: Database) -> None:
    event = ResourceUpdated(installation_id="icfg_1", resource_id="db_1", product_id="pg")
    with database.engine.begin() as connection:
        connection.execute(insert_event(event))
    for _ in ("in the outbox", "collected"):
        rows = dispatcher("explain", "db_1", "--json").rows
        assert [(row["what"], row["resource_id"], row["product_id"]) for row in rows] == [
            ("event", "db_1", "pg"),
            ("next", "db_1", "pg"),
        ]
        store.collect(database, 500)


def test_json_is_one_object_a_line_with_stable_keys(dispatcher: Terminal, database: Database) -> None:
    publish(database, "db_1", "db_2")
    rows = dispatcher("explain", "icfg_1", "--json").rows
    assert {tuple(row) for row in rows} == {tuple(KEYS)}
    assert [row["what"] for row in rows] == ["event", "event", "next", "next"]


def test_a_cut_list_is_announced(dispatcher: Terminal, database: Database) -> None:
    publish(database, "db_1", "db_2")
    ended = dispatcher("explain", "icfg_1", "--limit", "1")
    assert len(ended.out.splitlines()) == 7
    assert "raise --limit to see older ones" in ended.complaint


def test_when_everything_is_delivered_nothing_waits(dispatcher: Terminal, database: Database) -> None:
    publish(database, "db_1")
    store.collect(database, 500)
    installations.purge(database, "icfg_1", lambda _: None, signature=Signature("ann", "\x1b[2J"))
    ended = dispatcher("explain", "db_1", "--installation", "icfg_1")
    assert r"\x1b[2J" in ended.out
    assert ended.out.endswith("nothing is waiting, and no dispatcher is running\n")
    store.beat(database, store.Heartbeat("one", "1.0", 0, is_outage=False, is_first=True))
    ended = dispatcher("explain", "db_1", "--installation", "icfg_1")
    assert ended.out.endswith("nothing is waiting: the next event is sent as soon as it arrives\n")


def test_on_a_terminal_long_lines_are_wrapped(dispatcher: Terminal, database: Database) -> None:
    publish(database, "db_1")
    store.collect(database, 500)
    note = "because the customer has uninstalled the integration, as the ticket says"
    installations.purge(database, "icfg_1", lambda _: None, signature=Signature("ann", note))
    controller, terminal = pty.openpty()
    with os.fdopen(terminal, "wb") as screen:
        environ = dispatcher.environ() | {"COLUMNS": "60"}
        subprocess.run([COMMAND, "explain", "icfg_1"], cwd=dispatcher.directory, env=environ, stdout=screen, check=True)
        shown = os.read(controller, 65_536).decode().replace("\r\n", "\n")
    os.close(controller)
    assert max(map(len, shown.splitlines())) <= 64  # the sentence below the table is not wrapped
    assert note in " ".join(shown.split())
    assert note in dispatcher("explain", "icfg_1").out


def test_an_unknown_id_is_exit_code_3(dispatcher: Terminal) -> None:
    ended = dispatcher("explain", "db_\x1b[2J")
    assert (ended.code, ended.out) == (3, "")
    assert ended.complaint == r"dispatcher: nothing is known about db_\x1b[2J"
