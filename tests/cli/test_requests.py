"""`dispatcher requests`: the log of all requests, and its end as it grows."""

import json
import re
import signal
import subprocess
from datetime import timedelta
from functools import partial

import pytest
import sqlalchemy as sa

from dispatcher import store
from dispatcher.database.transactions import Database
from dispatcher.inspection.minutes import outcomes_by_minute
from dispatcher.inspection.requests import newest_requests
from dispatcher.outbox.events import ResourceUpdated
from dispatcher.outbox.publisher import insert_event
from dispatcher.outbox.tables import attempt
from dispatcher.policy.decision import Action, Decision
from dispatcher.policy.outcome import Outcome, OutcomeKind
from tests.cli.conftest import COMMAND, Terminal
from tests.contract.steps import LEASE, claim

ERROR = "upstream connect error or disconnect/reset before headers. reset reason: connection failure\nsecond line"


def send(database: Database, resource: str, *, fails: bool = False) -> None:
    with database.engine.begin() as connection:
        connection.execute(insert_event(ResourceUpdated(installation_id="icfg_1", resource_id=resource)))
    store.collect(database, 500)
    (leased,) = claim(database)
    outcome = Outcome(OutcomeKind.FAILED, 503, "busy", ERROR) if fails else Outcome(OutcomeKind.DELIVERED, 201)
    outcome = outcome._replace(duration=0.012, vercel_id="iad1::abc")
    decision = Decision(Action.RETRY, delay=3_600.0) if fails else Decision(Action.DELIVERED)
    (planned,) = leased.deliveries
    state = store.InstallationState(leased.installation_id, leased.token, release=True)
    store.settle(database, [store.Answer(planned, leased.token, outcome, decision)], [state], LEASE)


@pytest.fixture(autouse=True)
def log(database: Database) -> None:
    """One request that succeeded, and one that failed."""
    send(database, "db_1")
    send(database, "db_2", fails=True)


def test_each_request_is_a_line(dispatcher: Terminal) -> None:
    header, first, second = dispatcher("requests").out.splitlines()
    assert header.split()[2:4] + header.split()[-3:] == ["installation", "resource", "vercel", "id", "error"]
    assert first.split()[2:] == ["icfg_1", "db_1", "1", "delivered", "201", "12", "delivered", "iad1::abc"]
    assert second.split()[2:9] == ["icfg_1", "db_2", "1", "failed", "503", "12", "retry"]
    assert second.endswith("  " + ERROR[:59] + "…")


def test_failed_ones_only(dispatcher: Terminal) -> None:
    (row,) = dispatcher("requests", "--failed", "--json").rows
    assert (row["resource_id"], row["status"], row["vercel_id"], row["error"]) == ("db_2", 503, "iad1::abc", ERROR)
    assert [row["resource_id"] for row in dispatcher("requests", "--limit", "1", "--json").rows] == ["db_2"]
    assert [row["resource_id"] for row in dispatcher("requests", "--resource", "db_1", "--json").rows] == ["db_1"]


def test_where_none_is_known_the_exit_code_is_3(dispatcher: Terminal) -> None:
    for format_ in ((), ("--json",)):
        ended = dispatcher("requests", "--installation", "icfg_2", *format_)
        assert (ended.code, ended.out, ended.complaint) == (3, "", "dispatcher: no such request is known")


def rows(dispatcher: Terminal, *options: object) -> list[object]:
    """The resources of the requests that are shown."""
    return [row["resource_id"] for row in dispatcher("requests", "--json", *options).rows]


def test_the_filter_takes_outcomes_statuses_and_times(dispatcher: Terminal, database: Database) -> None:
    assert rows(dispatcher, "--outcome", "failed") == ["db_2"]
    assert rows(dispatcher, "--status", 201) == ["db_1"]
    with database.engine.begin() as connection:
        old = sa.update(attempt).where(attempt.c.resource_id == "db_1")
        connection.execute(old.values(at=database.now() - timedelta(hours=1)))
    assert rows(dispatcher, "--since", "10m") == ["db_2"]
    assert rows(dispatcher, "--until", "10m") == ["db_1"]
    assert dispatcher("requests", "--since", "2h", "--until", "90m").code == 3
    wrong = dispatcher("requests", "--until", "yesterday")
    assert (wrong.code, wrong.complaint.startswith("dispatcher: --until cannot be read:")) == (2, True)


def test_a_search_that_did_not_reach_everything_says_so(dispatcher: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    limited = partial(newest_requests, scan_limit=1)
    monkeypatch.setattr("dispatcher.cli.requests.newest_requests", limited)
    at = r"[-\d]+ [:\d]+"
    searched = rf"the newest 1 request, {at} to {at} UTC"
    ended = dispatcher("requests", "--failed")
    assert re.fullmatch(rf"only {searched} were searched: see --until, --installation and --resource", ended.complaint)
    none = dispatcher("requests", "--outcome", "delivered")
    assert (none.code, none.out) == (3, "")
    assert re.fullmatch(rf"dispatcher: no such request is known among {searched}", none.complaint)
    assert dispatcher("requests", "--limit", "1").err == ""
    assert dispatcher("requests", "--installation", "icfg_1").err == ""


def test_requests_are_grouped_by_what_they_came_to(dispatcher: Terminal, database: Database) -> None:
    send(database, "db_3", fails=True)
    scope, _, header, first, second = dispatcher("requests", "--grouped").out.splitlines()
    assert re.fullmatch(r"of the newest 3 requests, [-\d]+ [:\d]+ to [-\d]+ [:\d]+ UTC:", scope)
    assert header.split()[:3] == ["requests", "outcome", "status"]
    assert first.split()[:5] == ["2", "failed", "503", "busy", "1"]
    assert "icfg_1" in first
    assert "db_3" in first
    assert first.endswith(ERROR[:59] + "…")
    assert second.split()[:5] == ["1", "delivered", "201", "-", "1"]
    group, last = dispatcher("requests", "--grouped", "--failed", "--json").rows
    assert (group["kind"], group["requests"], group["newest"]["resource_id"]) == ("group", 2, "db_3")
    assert group["error_prefix"] == ERROR
    assert (last["kind"], last["requests"], last["complete"], last["groups"]) == ("scope", 3, True, 1)
    cut = dispatcher("requests", "--grouped", "--limit", "1")
    assert (len(cut.out.splitlines()), cut.complaint) == (4, "the first 1 of 2 groups are listed: --limit")
    assert dispatcher("requests", "--grouped", "--status", "404").code == 3


def test_each_minute_of_the_last_hour_is_a_line(dispatcher: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    header, *lines = dispatcher("requests", "--by-minute").out.splitlines()
    assert header.split() == ["minute", "(UTC)", "delivered", "failed", "throttled"]
    assert len(lines) == 60
    minutes = dispatcher("requests", "--by-minute", "--json").rows
    assert [sum(minute[name] for minute in minutes) for name in ("delivered", "failed", "throttled")] == [1, 1, 0]
    assert not any(minute["capped"] for minute in minutes)
    monkeypatch.setattr("dispatcher.cli.requests.outcomes_by_minute", partial(outcomes_by_minute, cap=1))
    assert dispatcher("requests", "--by-minute").out.count("  or more\n") in {1, 2}


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (("--grouped", "--follow"), "choose one of --grouped, --by-minute and --follow"),
        (("--by-minute", "--failed"), "--by-minute goes without a filter"),
        (("--status", "1"), "Invalid value for '--status'"),
        (("--outcome", "nonsense"), "Invalid value for '--outcome'"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    dispatcher: Terminal, options: tuple[str, ...], complaint: str
) -> None:
    ended = dispatcher("requests", *options)
    assert (ended.code, ended.out) == (2, "")
    assert complaint in ended.complaint


def test_following_prints_new_requests_until_it_is_interrupted(dispatcher: Terminal, database: Database) -> None:
    following = subprocess.Popen(
        [COMMAND, "requests", "--follow", "--every", "0.1", "--json", "--limit", "1"],
        cwd=dispatcher.directory,
        env=dispatcher.environ(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert following.stdout is not None
    assert json.loads(following.stdout.readline())["resource_id"] == "db_2"
    send(database, "db_3")
    assert json.loads(following.stdout.readline())["resource_id"] == "db_3"
    following.send_signal(signal.SIGINT)
    rest, complaint = following.communicate(timeout=60)
    assert (following.returncode, rest, complaint) == (130, "", "")
