"""The page of requests has the rows of its command, above them what they came to, and says which part of the log it has read."""

import re
import shlex
from datetime import timedelta
from functools import partial
from html import unescape
from pathlib import Path

import pytest
import sqlalchemy as sa

from dispatcher.console import requests as page
from dispatcher.database.transactions import Database
from dispatcher.inspection.request_groups import group_requests
from dispatcher.inspection.requests import RequestFilter, newest_requests
from dispatcher.outbox.tables import attempt
from dispatcher.policy.outcome import OutcomeKind
from dispatcher.settings.settings import AttemptLog
from tests.cli.conftest import Terminal
from tests.console.conftest import Console, Start, on_two_databases, words
from tests.console.test_pages import commands_of


def make(database: Database, outcome: str, number: int, *, status: int | None = 500, minutes: int = 0) -> None:
    """Adds requests that were made `minutes` ago, one millisecond after another."""
    at = database.now() - timedelta(minutes=minutes)
    events = {"events": 1, "first_event_id": 1, "last_event_id": 1, "first_created_at": at}
    kind = {"outcome": outcome, "status": status, "decision": "retry", "attempt": 1, "duration_ms": 5}
    subject = {"subject_key": "k", "installation_id": "icfg_5", "type": "resource.updated", "resource_id": "db_5"}
    rows = [{"at": at + timedelta(milliseconds=n), **events, **kind, **subject} for n in range(number)]
    with database.engine.begin() as connection:
        connection.execute(sa.insert(attempt), rows)


def shown_ids(html: str) -> list[int]:
    """The requests that the page lists."""
    return [int(id_) for id_ in re.findall(r'<tr id="request-(\d+)"', html)]


@on_two_databases
@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        ("", RequestFilter()),
        ("?outcome=failing", RequestFilter(failed=True)),
        ("?outcome=throttled&status=429", RequestFilter(outcome=OutcomeKind.THROTTLED, status=429)),
        ("?installation=icfg_5&resource=db_5", RequestFilter("icfg_5", "db_5")),
    ],
)
async def test_the_rows_and_the_groups_are_those_of_the_filter(
    console: Console, trouble: Database, query: str, wanted: RequestFilter
) -> None:
    make(trouble, "throttled", 3, status=429)
    html = (await console.get(f"requests{query}")).text
    assert shown_ids(html) == [one.id for one in newest_requests(trouble, wanted, 50).requests[::-1]]
    groups = group_requests(trouble, wanted).groups
    assert re.findall(r"data-group>(\d+)<", html) == [str(one.requests) for one in groups]
    for group, link in zip(groups, re.findall(r'<a href="\./(requests\?[^"]+)"><b', html), strict=True):
        assert len(shown_ids((await console.get(unescape(link))).text)) == group.requests


@pytest.mark.parametrize("query", ["", "?outcome=failing&since=10m", "?outcome=failed&status=502&until=0s"])
async def test_both_commands_find_the_same(console: Console, trouble: Database, tmp_path: Path, query: str) -> None:
    make(trouble, "failed", 2, status=503, minutes=20)
    html = (await console.get(f"requests{query}")).text
    url = trouble.engine.url.set(drivername="sqlite").render_as_string()
    grouped, listed = (
        Terminal(tmp_path)(*shlex.split(command)[1:], "--json", database_url=url).rows for command in commands_of(html)
    )
    assert [row["id"] for row in listed[::-1]] == shown_ids(html)
    assert [str(row["requests"]) for row in grouped[:-1]] == re.findall(r"data-group>(\d+)<", html)


async def test_the_scope_is_said_in_words(console: Console, trouble: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    make(trouble, "delivered", 60, status=200)
    text = words((await console.get("requests")).text)
    assert re.search(r"all 62, [\d-]+ [\d:]+ to [\d-]+ [\d:]+ UTC , were read", text)
    assert "There may be more" in text
    monkeypatch.setattr(page, "group_requests", partial(group_requests, scan_limit=5))
    monkeypatch.setattr(page, "newest_requests", partial(newest_requests, scan_limit=5))
    text = words((await console.get("requests?outcome=delivered")).text)
    assert re.search(r"only the newest 5, .* were read, and of these the ones that match are counted", text)
    assert re.search(r"only the newest 5, .* were searched: narrow the times", text)
    text = words((await console.get("requests?outcome=timeout")).text)
    assert re.search(r"None matches outcome timeout — clear Of the log, only the newest 5, .* were searched", text)


@pytest.mark.usefixtures("trouble")
async def test_many_groups_are_cut_and_counted(console: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "ROWS", 1)
    assert "1 smaller groups are left out" in words((await console.get("requests")).text)


async def test_an_empty_log_says_how_long_it_is_kept(console: Console) -> None:
    text = words((await console.get("requests")).text)
    assert "No request is known Requests are kept for a time only: DISPATCHER_ATTEMPT_RETENTION." in text


@pytest.mark.parametrize(
    ("query", "error"),
    [
        ("status=99", "Status is not a number from 100 to 599"),
        ("status=%D9%A3", "Status is not a number from 100 to 599"),
        ("outcome=lost", "Outcome is none of delivered, "),
        ("since=yesterday", "Since cannot be read: write how long ago"),
        ("until=x", "Until cannot be read: write how long ago"),
        ("installation=%00", "Installation has a character that no text in the database has"),
    ],
)
async def test_a_bad_field_is_marked(console: Console, trouble: Database, query: str, error: str) -> None:
    answer = await console.get(f"requests?{query}&resource=db_1")
    assert answer.status_code == 400
    assert error in words(answer.text)
    assert answer.text.count("aria-invalid") == 1
    assert 'name="resource" value="db_1"' in answer.text
    assert not shown_ids(answer.text)
    assert newest_requests(trouble, RequestFilter(resource_id="db_1"), 1).requests


async def test_a_log_without_successes_says_so(start: Start) -> None:
    console = await start(attempt_log=AttemptLog.FAILURES)
    assert "has only those that failed" in words((await console.get("requests")).text)
