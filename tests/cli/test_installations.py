from datetime import UTC, datetime

import pytest
import sqlalchemy as sa

from dispatcher import store
from dispatcher.database.transactions import Database
from dispatcher.outbox.events import ResourceUpdated
from dispatcher.outbox.publisher import insert_event
from dispatcher.outbox.tables import delivery, installation, outbox
from tests.cli.conftest import Terminal


def publish(database: Database, *resources: str) -> None:
    with database.engine.begin() as connection:
        for resource in resources:
            connection.execute(insert_event(ResourceUpdated(installation_id="icfg_1", resource_id=resource)))


def test_pause_list_resume(dispatcher: Terminal, database: Database) -> None:
    publish(database, "db_1")
    store.collect(database, 500)
    ended = dispatcher("installations", "pause", "icfg_1", "--by", "ann", "--note", "moves")
    assert ended.code == 0
    logged = {"logger": "dispatcher", "level": "info", "installation_id": "icfg_1", "installations": 1, "by": "ann"}
    assert ended.log == [{**logged, "event": "installations paused", "note": "moves"}]
    assert ended.out == "icfg_1 is paused until `dispatcher installations resume icfg_1`\n"
    listed = dispatcher("installations", "list", "--paused")
    header, row_of_it = (line.split() for line in listed.out.splitlines())
    assert row_of_it[:5] == ["icfg_1", "paused", "1", "0", "operator"]
    assert (header[-3:], row_of_it[-2:]) == (["paused", "by", "note"], ["ann", "moves"])
    (row,) = dispatcher("installations", "list", "--json").rows
    assert (row["state"], row["pause_reason"], row["paused_until"], row["due_at"]) == ("paused", "operator", None, None)
    assert (row["paused_by"], row["pause_note"]) == ("ann", "moves")
    ended = dispatcher("installations", "resume", "icfg_1", "--by", "bob")
    assert ended.out == "icfg_1 is not paused: 0 events and 1 delivery due now, sent within the rate limit\n"
    assert ended.log == [{**logged, "event": "installations resumed", "by": "bob"}]
    assert "note" not in dispatcher("installations", "list").out
    assert [one["state"] for one in dispatcher("installations", "list", "--json").rows] == ["due"]


def test_a_resume_tells_what_is_sent_now_and_what_waits(dispatcher: Terminal, database: Database) -> None:
    publish(database, "db_1")
    assert dispatcher("installations", "pause", "icfg_1").code == 0
    store.collect(database, 500)
    with database.engine.begin() as connection:
        later = datetime(2999, 12, 31, tzinfo=UTC)
        connection.execute(sa.update(delivery).values(due_at=later))
    publish(database, "db_2")
    ended = dispatcher("installations", "resume", "icfg_1")
    assert ended.out == (
        "icfg_1 is not paused: 1 event and 0 deliveries due now, sent within the rate limit; 1 delivery later, the first at"
        " 2999-12-31 00:00:00 UTC: `dispatcher deliveries retry --installation icfg_1` makes them due now\n"
    )
    (row,) = dispatcher("installations", "resume", "icfg_1", "--json").rows
    waits = {"events": 1, "due": 0, "due_later": 1, "next_due_at": "2999-12-31T00:00:00+00:00"}
    assert row == {"installations": 1, "resumed": 1, **waits}
    with database.engine.begin() as connection:
        connection.execute(sa.delete(delivery))
        connection.execute(sa.delete(outbox))
    assert dispatcher("installations", "resume", "icfg_1").out == "icfg_1 is not paused: nothing waits to be sent\n"


def test_all_are_paused_and_resumed_after_a_question(dispatcher: Terminal, database: Database) -> None:
    with database.engine.begin() as connection:
        connection.execute(sa.insert(installation), [{"installation_id": f"icfg_{n}"} for n in range(3)])
    dry = dispatcher("installations", "pause", "--all", "--dry-run")
    assert (dry.code, dry.err, dry.out) == (0, "", "3 installations would be paused; nothing was changed\n")
    asked = dispatcher("installations", "pause", "--all")
    assert asked.code == 2
    assert "Pause 3 installations?" in asked.complaint
    assert "--yes" in asked.complaint
    done = dispatcher("installations", "pause", "--all", "--yes", "--by", "ann", "--note", "incident")
    assert done.out == "paused 3 installations until `dispatcher installations resume --reason operator`\n"
    (line,) = done.log
    assert (line["installation_id"], line["installations"], line["by"], line["note"]) == ("all", 3, "ann", "incident")
    assert dispatcher("installations", "pause", "--all", "--yes").code == 3
    assert {one["paused_by"] for one in dispatcher("installations", "list", "--json").rows} == {"ann"}
    other = dispatcher("installations", "resume", "--reason", "unauthorized", "--yes")
    assert (other.code, other.out) == (3, "")
    assert "no installation is paused for the reason unauthorized" in other.complaint
    dry = dispatcher("installations", "resume", "--reason", "operator", "--dry-run", "--json")
    assert dry.rows == [{"installations": 3, "resumed": 0}]
    assert "Resume 3 installations for the reason operator?" in (
        dispatcher("installations", "resume", "--reason", "operator").complaint
    )
    done = dispatcher("installations", "resume", "--all", "--yes", "--json")
    assert done.rows == [{"installations": 3, "resumed": 3}]
    assert [line["event"] for line in done.log] == ["installations resumed"]
    assert {one["state"] for one in dispatcher("installations", "list", "--json").rows} == {"idle"}


def test_a_dry_run_of_one_changes_nothing(dispatcher: Terminal, database: Database) -> None:
    publish(database, "db_1")
    for command in ("pause", "resume"):
        ended = dispatcher("installations", command, "icfg_1", "--dry-run")
        assert (ended.code, ended.err, ended.out) == (
            0,
            "",
            f"1 installation would be {command}d; nothing was changed\n",
        )
        assert dispatcher("installations", command, "unknown", "--dry-run").code == 3
    assert dispatcher("installations", "list").code == 3


@pytest.mark.parametrize(
    "arguments",
    [
        ("pause",),
        ("resume",),
        ("pause", "x", "--all"),
        ("resume", "x", "--all"),
        ("resume", "x", "--reason", "operator"),
    ],
)
def test_which_installations_are_meant_must_be_clear(dispatcher: Terminal, arguments: tuple[str, ...]) -> None:
    ended = dispatcher("installations", *arguments)
    assert (ended.code, ended.out) == (2, "")
    assert "choose which" in ended.complaint


def test_those_that_could_not_be_changed_are_an_error(
    dispatcher: Terminal, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another session keeps their rows locked, which SQLite cannot: here nothing is changed at all."""
    with database.engine.begin() as connection:
        connection.execute(sa.insert(installation).values(installation_id="icfg_1"))
    monkeypatch.setattr("dispatcher.cli.installations.pause_all", lambda *_: 0)
    ended = dispatcher("installations", "pause", "--all", "--yes")
    assert ended.code == 1
    assert "1 installation" in ended.complaint
    assert "another session keeps them locked" in ended.complaint


def test_a_purge_is_announced_asked_for_and_done(dispatcher: Terminal, database: Database) -> None:
    publish(database, "db_1", "db_2")
    store.collect(database, 500)
    publish(database, "db_3")
    dry = dispatcher("installations", "purge", "icfg_1", "--dry-run")
    assert (dry.code, dry.out) == (0, "2 deliveries and 1 event of icfg_1 wait; nothing was changed\n")
    asked = dispatcher("installations", "purge", "icfg_1")
    assert asked.code == 2
    assert "--yes" in asked.complaint
    signed = ("--by", "ann", "--note", "uninstalled")
    done = dispatcher("installations", "purge", "icfg_1", "--yes", "--json", *signed)
    assert done.rows == [{"installation_id": "icfg_1", "events": 1, "deliveries": 2, "dead_letters": 3}]
    (line,) = done.log
    assert (line["event"], line["dead_letters"], line["by"], line["note"]) == (
        "installation purged",
        3,
        "ann",
        "uninstalled",
    )
    purged = dispatcher("dead-letters", "list", "--reason", "purged", "--resolved", "--json").rows
    assert [(one["resolution"], one["resolved_by"], one["note"]) for one in purged] == [
        ("discarded", "ann", "uninstalled")
    ] * 3
    assert dispatcher("dead-letters", "list").code == 3
    assert dispatcher("installations", "list").code == 3
    assert dispatcher("installations", "purge", "icfg_1", "--yes").code == 3


def test_a_purge_by_mistake_is_undone(dispatcher: Terminal, database: Database) -> None:
    publish(database, "db_1", "db_2")
    assert dispatcher("installations", "purge", "icfg_1", "--yes").out == "2 dead letters (purged) of icfg_1\n"
    (row,) = dispatcher("dead-letters", "replay", "--reason", "purged", "--yes", "--json").rows
    assert (row["dead_letters"], row["replayed"]) == (2, 2)
    assert dispatcher("dead-letters", "replay", "--reason", "purged", "--yes").code == 3


def test_trouble_is_listed_first(dispatcher: Terminal, database: Database) -> None:
    rows: dict[str, dict[str, object]] = {
        "icfg_1": {},
        "icfg_2": {"due_at": database.now()},
        "icfg_3": pause(database, "operator"),
        "icfg_4": {"due_at": database.now(), "failures": 2},
        "icfg_5": {"due_at": database.now(), "failures": 3},
        "icfg_6": pause(database, "no_credential"),
    }
    with database.engine.begin() as connection:
        for id_, values in rows.items():
            connection.execute(sa.insert(installation).values(installation_id=id_, **values))
    listed = [row["installation_id"] for row in dispatcher("installations", "list", "--json").rows]
    assert listed == ["icfg_6", "icfg_5", "icfg_4", "icfg_3", "icfg_2", "icfg_1"]


def pause(database: Database, reason: str) -> dict[str, object]:
    return {"pause_reason": reason, "paused_since": database.now(), "paused_until": database.now()}


def test_where_nothing_is_known_the_exit_code_is_3(dispatcher: Terminal, database: Database) -> None:
    for arguments in (("list",), ("list", "--paused"), ("pause", "x"), ("resume", "x"), ("purge", "\x1b[2J", "--yes")):
        ended = dispatcher("installations", *arguments)
        assert (ended.code, ended.out) == (3, ""), arguments
        assert "\x1b" not in ended.complaint
    with database.read() as connection:
        assert connection.execute(sa.select(installation)).all() == []


def test_a_cut_list_is_announced(dispatcher: Terminal, database: Database) -> None:
    publish(database, "db_1")
    store.collect(database, 500)
    assert "there may be more: --limit" in dispatcher("installations", "list", "--limit", "1").complaint
