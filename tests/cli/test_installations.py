import re
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from dispatcher import store
from dispatcher.database.transactions import Database
from dispatcher.outbox.events import ResourceUpdated
from dispatcher.outbox.publisher import insert_event
from dispatcher.outbox.tables import delivery, installation, outbox
from dispatcher.policy.decision import Action, Decision, ThrottleReason
from tests.cli.conftest import Terminal
from tests.contract.steps import claim, settle


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


def test_each_view_has_its_own_order(dispatcher: Terminal, database: Database) -> None:
    now = database.now()
    rows: dict[str, dict[str, object]] = {
        "icfg_late": {"due_at": now - timedelta(hours=1), "failures": 1},
        "icfg_later": {"due_at": now - timedelta(minutes=1), "failures": 2},
        "icfg_paused": pause(database, "operator"),
        "icfg_dying": pause(database, "unauthorized"),
        "other": {"due_at": now - timedelta(days=1)},
    }
    with database.engine.begin() as connection:
        for id_, values in rows.items():
            connection.execute(sa.insert(installation).values(installation_id=id_, **values))

    def listed(*options: str) -> list[str]:
        return [row["installation_id"] for row in dispatcher("installations", "list", "--json", *options).rows]

    assert listed("--paused") == ["icfg_dying", "icfg_paused"]
    assert listed("--paused", "--reason", "operator") == ["icfg_paused"]
    assert listed("--failing") == ["icfg_later", "icfg_late"]
    assert listed("--behind") == ["other", "icfg_late", "icfg_later"]
    assert listed("--behind", "--prefix", "icfg_") == ["icfg_late", "icfg_later"]
    assert len(listed("--prefix", "icfg_")) == 4
    ended = dispatcher("installations", "list", "--paused", "--failing")
    assert (ended.code, ended.out) == (2, "")
    assert "choose one of --paused, --failing and --behind" in ended.complaint
    ended = dispatcher("installations", "list", "--failing", "--reason", "operator")
    assert (ended.code, ended.complaint) == (2, "dispatcher: --reason goes with --paused")
    ended = dispatcher("installations", "list", "--paused", "--reason", "disabled")
    assert (ended.code, ended.complaint) == (3, "dispatcher: there is no paused installation for the reason disabled")


def test_the_list_says_when_paused_ones_begin_to_die(dispatcher: Terminal, database: Database) -> None:
    since = datetime(2026, 1, 30, 12, tzinfo=UTC)
    with database.engine.begin() as connection:
        for id_, reason in (("icfg_1", "unauthorized"), ("icfg_2", "operator")):
            values = {"pause_reason": reason, "paused_since": since, "paused_until": since}
            connection.execute(sa.insert(installation).values(installation_id=id_, **values))
    header, first, second = dispatcher("installations", "list", "--paused", auth_grace="2h").out.splitlines()
    assert "begins to die (UTC)" in header
    assert first.split()[4:7] == ["unauthorized", "2026-01-30", "12:00:00"]
    assert first.split()[-3:-1] == ["2026-01-30", "14:00:00"]
    assert second.split()[-2] == "never"
    rows = dispatcher("installations", "list", "--paused", "--json", auth_grace="2h").rows
    assert [row["dies_at"] for row in rows] == ["2026-01-30T14:00:00+00:00", None]


def test_more_deliveries_than_are_counted_are_a_lower_bound(
    dispatcher: Terminal, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dispatcher.inspection.installations.MAX_COUNTED_DELIVERIES", 2)
    publish(database, "db_1", "db_2", "db_3")
    store.collect(database, 500)
    assert dispatcher("installations", "list").out.splitlines()[1].split()[2] == "2+"
    (row,) = dispatcher("installations", "list", "--json").rows
    assert (row["deliveries"], row["deliveries_complete"]) == (2, False)


def pause(database: Database, reason: str) -> dict[str, object]:
    return {"pause_reason": reason, "paused_since": database.now(), "paused_until": database.now()}


def test_where_nothing_is_known_the_exit_code_is_3(dispatcher: Terminal, database: Database) -> None:
    for arguments in (
        ("list",),
        ("list", "--paused"),
        ("list", "--failing"),
        ("list", "--behind"),
        ("list", "--prefix", "x"),
        ("show", "x"),
        ("pause", "x"),
        ("resume", "x"),
        ("purge", "\x1b[2J", "--yes"),
    ):
        ended = dispatcher("installations", *arguments)
        assert (ended.code, ended.out) == (3, ""), arguments
        assert "\x1b" not in ended.complaint
    with database.read() as connection:
        assert connection.execute(sa.select(installation)).all() == []


def test_a_cut_list_is_announced(dispatcher: Terminal, database: Database) -> None:
    publish(database, "db_1")
    store.collect(database, 500)
    cut = dispatcher("installations", "list", "--limit", "1")
    assert re.search(
        r"the first 1 are listed, there may be more: --limit, or --after waiting\.\d+\.icfg_1$", cut.complaint
    )


def test_the_next_page_is_listed_by_the_key_that_the_page_before_has_named(
    dispatcher: Terminal, database: Database
) -> None:
    with database.engine.begin() as connection:
        for n in range(3):
            row = {"installation_id": f"icfg_{n}", "failures": 5 - n, "due_at": database.now()}
            connection.execute(sa.insert(installation).values(row))
    list_failing = ("installations", "list", "--failing", "--json", "--limit", "2")
    first = dispatcher(*list_failing)
    assert [row["failures"] for row in first.rows] == [5, 4]
    key = first.complaint.rpartition(" ")[2]
    assert key == "failing.-4.icfg_1"
    assert [row["failures"] for row in dispatcher(*list_failing, "--after", key).rows] == [3]
    ended = dispatcher(*list_failing, "--after", "failing.-3.icfg_2")
    assert (ended.code, ended.out) == (3, "")
    assert "there is no failing installation after this key" in ended.complaint


@pytest.mark.parametrize(
    "key",
    [
        "",
        "icfg_1",
        "idle.0.icfg_1",
        "failing.x.icfg_1",
        "failing.1.icfg_1",
        "failing.-9999999999.icfg_1",
        "failing.-1.",
        "behind.99999999999999999999.icfg_1",
        "failing.-1.\0",
    ],
)
def test_a_text_that_is_no_key_is_refused(dispatcher: Terminal, key: str) -> None:
    ended = dispatcher("installations", "list", "--failing", "--after", key)
    assert (ended.code, ended.out) == (2, "")
    assert "--after is no key of this list" in ended.complaint


# show


def change(database: Database, **values: object) -> None:
    with database.engine.begin() as connection:
        connection.execute(sa.update(installation).values(**values))


def facts(dispatcher: Terminal, **settings: str) -> dict[str, str]:
    """What `show` says about icfg_1."""
    lines = dispatcher("installations", "show", "icfg_1", **settings).out.partition("\n\n")[0].splitlines()
    return dict(line.split("  ", 1) for line in lines)


def test_one_that_works_is_shown_with_its_deliveries(dispatcher: Terminal, database: Database) -> None:
    publish(database, "db_1", "db_2")
    store.collect(database, 500)
    ended = dispatcher("installations", "show", "icfg_1", "--limit", "1")
    assert (ended.code, ended.complaint) == (0, "the first 1 delivery of 2 are listed: --limit")
    above, _, below = ended.out.partition("\n\n")
    assert above.splitlines() == [
        "installation  icfg_1",
        "state         due",
        "failures      0 in a row",
        "breaker       closed, 0 faults in a row",
        "lease         none",
        "rate          0 of 60 used in 1m, the next request now",
        "waiting       2 deliveries: at least 0s at the rate limit",
        "delivered     never",
    ]
    header, line = below.splitlines()
    assert header.split()[:3] == ["resource", "events", "attempts"]
    assert line.split()[:2] in (["db_1", "1"], ["db_2", "1"])
    (row,) = dispatcher("installations", "show", "icfg_1", "--json").rows
    assert (row["installation"]["state"], row["waiting"], len(row["deliveries"])) == ("due", 2, 2)
    assert row["rate"] == {"used": 0, "limit": 60, "window": 60.0, "next_in": 0.0, "backlog": 0.0}


def test_one_in_trouble_is_shown_with_everything_that_holds_it_up(dispatcher: Terminal, database: Database) -> None:
    publish(database, "db_1", "db_2")
    store.collect(database, 500)
    now = database.now()
    later = now + timedelta(hours=1)
    change(
        database,
        failures=7,
        faults=5,
        lease_token="t",
        leased_until=later,
        leased_by="one",
        throttled_until=later,
        last_delivered_at=now,
        rate_window=f"[{now.timestamp()}]",
    )
    shown = {name: text.strip() for name, text in facts(dispatcher, rate_limit="1/1h").items()}
    assert (shown["failures"], shown["breaker"]) == ("7 in a row", "open, 5 faults in a row")
    at = f"{later:%Y-%m-%d %H:%M:%S} UTC"
    assert (shown["lease"], shown["throttled"]) == (f"of one, until {at}", f"until {at}")
    assert re.fullmatch(r"1 of 1 used in 1h, the next request in (59m \d+s|1h)", shown["rate"])
    assert re.fullmatch(r"2 deliveries: at least (1h 59m|2h) at the rate limit", shown["waiting"])
    assert shown["delivered"] == f"{now:%Y-%m-%d %H:%M:%S} UTC"
    change(database, leased_until=now, throttled_until=now)
    assert facts(dispatcher)["lease"].strip() == f"of one, expired at {now:%Y-%m-%d %H:%M:%S} UTC"
    assert "rate" not in facts(dispatcher, rate_limit="off")


def test_a_pause_is_shown_with_who_why_and_its_deadline(dispatcher: Terminal, database: Database) -> None:
    publish(database, "db_1")
    store.collect(database, 500)
    dispatcher("installations", "pause", "icfg_1", "--by", "ann", "--note", "moves")
    shown = facts(dispatcher)
    assert re.fullmatch(r" *operator since [-\d: ]+ UTC, by ann: moves", shown["paused"])
    assert shown["begins to die"] == "never: an operator paused it"
    since = database.now() - timedelta(hours=2)
    change(database, pause_reason="unauthorized", paused_since=since)
    assert re.fullmatch(r"[-\d: ]+ UTC, in (59m \d+s|1h)", facts(dispatcher, auth_grace="3h")["begins to die"])
    assert re.fullmatch(r"[-\d: ]+ UTC, since 1h( \d+m)?", facts(dispatcher, auth_grace="1h")["begins to die"])


def test_why_one_is_throttled_is_shown(dispatcher: Terminal, database: Database) -> None:
    publish(database, "db_1")
    store.collect(database, 500)
    throttle = Decision(Action.THROTTLE, ThrottleReason.RATE_LIMITED, 600)
    settle(database, *claim(database), decision=throttle)
    change(database, throttled_until=database.now() + timedelta(hours=1))
    assert facts(dispatcher)["throttled"].endswith(" UTC: rate_limited")
