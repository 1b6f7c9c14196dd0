"""`dispatcher requests`: the log of all requests, and its end as it grows."""

import json
import signal
import subprocess

import pytest

from dispatcher import store
from dispatcher.database.transactions import Database
from dispatcher.outbox.events import ResourceUpdated
from dispatcher.outbox.publisher import insert_event
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
