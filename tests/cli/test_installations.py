import sqlalchemy as sa

from dispatcher import store
from dispatcher.database.transactions import Database
from dispatcher.outbox.events import ResourceUpdated
from dispatcher.outbox.publisher import insert_event
from dispatcher.outbox.tables import installation
from tests.cli.conftest import Terminal


def publish(database: Database, *resources: str) -> None:
    with database.engine.begin() as connection:
        for resource in resources:
            connection.execute(insert_event(ResourceUpdated(installation_id="icfg_1", resource_id=resource)))


def test_pause_list_resume(dispatcher: Terminal, database: Database) -> None:
    publish(database, "db_1")
    store.collect(database, 500)
    ended = dispatcher("installations", "pause", "icfg_1")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out == "icfg_1 is paused until `dispatcher installations resume icfg_1`\n"
    listed = dispatcher("installations", "list", "--paused")
    assert listed.out.split()[:5] == ["installation", "state", "deliveries", "failures", "reason"]
    assert listed.out.splitlines()[1].split()[:4] == ["icfg_1", "paused", "1", "0"]
    (row,) = dispatcher("installations", "list", "--json").rows
    assert (row["state"], row["pause_reason"], row["paused_until"], row["due_at"]) == ("paused", "operator", None, None)
    assert dispatcher("installations", "resume", "icfg_1").code == 0
    assert [one["state"] for one in dispatcher("installations", "list", "--json").rows] == ["due"]


def test_a_purge_is_announced_asked_for_and_done(dispatcher: Terminal, database: Database) -> None:
    publish(database, "db_1", "db_2")
    store.collect(database, 500)
    publish(database, "db_3")
    dry = dispatcher("installations", "purge", "icfg_1", "--dry-run")
    assert (dry.code, dry.out) == (0, "2 deliveries and 1 event of icfg_1 wait; nothing was changed\n")
    asked = dispatcher("installations", "purge", "icfg_1")
    assert asked.code == 2
    assert "--yes" in asked.complaint
    (row,) = dispatcher("installations", "purge", "icfg_1", "--yes", "--json").rows
    assert row == {"installation_id": "icfg_1", "events": 1, "deliveries": 2, "dead_letters": 3}
    assert len(dispatcher("dead-letters", "list", "--reason", "purged", "--json").rows) == 3
    assert dispatcher("installations", "purge", "icfg_1", "--yes").out == "0 dead letters (purged) of icfg_1\n"


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
