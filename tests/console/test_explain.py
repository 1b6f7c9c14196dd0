"""*Explain*: the past, now, and the future, in this order; equal attempts are one line that opens."""

import re
import shlex
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from dispatcher import store
from dispatcher.console import explain as explain_page
from dispatcher.console.history import fold, in_order
from dispatcher.database.transactions import Database
from dispatcher.inspection.entries import Entry
from dispatcher.inspection.explanation import explain
from dispatcher.outbox.tables import attempt, delivery
from dispatcher.settings.settings import AttemptLog
from tests.cli.conftest import Terminal
from tests.console.conftest import HOSTILE, Console, Start, on_two_databases, words
from tests.console.test_pages import commands_of
from tests.contract.steps import GRACES, ID, write

AT = datetime(2026, 11, 29, 14, tzinfo=UTC)
FAILED = Entry(AT, "attempt", "attempt", ID, "resource.updated", "db_1", status=502, duration_ms=80, outcome="failed")


def attempts(*numbers: int, **values: object) -> list[Entry]:
    """Failed attempts, a minute apart."""
    return [replace(FAILED, at=AT + timedelta(minutes=n), attempt=n, **values) for n in numbers]  # type: ignore[arg-type]


def texts(entries: Sequence[Entry]) -> list[str]:
    return [line.summary for line in fold(entries)]


def test_equal_attempts_in_a_row_are_one_line() -> None:
    entries = attempts(*range(1, 13))
    entries[3] = replace(entries[3], duration_ms=1_200)
    (line,) = fold(entries)
    assert line.summary == "12 × failed 502 in 80–1,200 ms, attempts 1–12"
    assert (line.first, line.last, line.kind.word) == (entries[0], entries[-1], "failed")


@pytest.mark.parametrize(
    "other",
    [
        {"status": 503},
        {"outcome": "delivered"},
        {"decision": "bury"},
        {"reason": "gone"},
        {"resource_id": "db_2"},
        {"installation_id": "icfg_2"},
        {"type": "installation.updated"},
    ],
)
def test_what_differs_is_a_line_of_its_own(other: dict[str, object]) -> None:
    entries = [*attempts(1, 2, 3), *attempts(4, **other), *attempts(5, 6, 7)]
    assert [len(line.entries) for line in fold(entries)] == [3, 1, 3]


def test_a_few_attempts_and_other_entries_are_not_folded() -> None:
    event = Entry(AT, "event", "event 1 was written")
    assert [len(line.entries) for line in fold([event, event, event, *attempts(1, 2), event])] == [1] * 6


def test_attempts_that_begin_again_have_no_range_of_numbers() -> None:
    assert texts(attempts(2, 3, 1, status=None)) == ["3 × failed in 80 ms"]


def test_the_future_is_in_the_order_of_time() -> None:
    some = [replace(FAILED, at=at, outcome=None, what="next") for at in (None, AT, AT - timedelta(1))]
    assert [line.first.at for line in in_order(some)] == [AT - timedelta(1), AT, None]


@pytest.mark.parametrize(
    ("what", "outcome", "word"),
    [
        ("event", None, "event"),
        ("pause", None, "paused"),
        ("dead_letter", None, "dead letter"),
        ("resolution", None, "resolved"),
        ("next", None, "next"),
        ("attempt", "delivered", "delivered"),
        ("attempt", "throttled", "throttled"),
        ("attempt", "no_credential", "no credential"),
    ],
)
def test_each_kind_has_a_word_and_an_icon(what: str, outcome: str | None, word: str) -> None:
    (line,) = fold([replace(FAILED, what=what, outcome=outcome)])
    assert line.kind.word == word
    assert line.kind.icon


# ── the page


@pytest.fixture
def failing(database: Database) -> Database:
    """A resource whose delivery has failed twelve times, and is tried again in ten minutes; another one waits, too."""
    with database.engine.begin() as connection:
        write(connection, "db_1")
    store.collect(database, 500)
    store.beat(database, store.Heartbeat("one", "1.0", 0, is_outage=False, is_first=True))
    now = database.now()
    with database.engine.begin() as connection:
        (row,) = connection.execute(sa.select(delivery)).all()
        names = ("subject_key", "installation_id", "type", "resource_id", "events", "first_event_id", "last_event_id")
        subject = {name: getattr(row, name) for name in names}
        created = {"first_created_at": now - timedelta(hours=1)}
        connection.execute(sa.update(delivery).values(attempts=12, due_at=now + timedelta(minutes=10), **created))
        for n in range(12):
            made = {"at": now - timedelta(minutes=12 - n), "outcome": "failed", "status": 502, "decision": "retry"}
            times = {"attempt": n + 1, "duration_ms": 71 + n, "error": HOSTILE}
            connection.execute(sa.insert(attempt).values(**made, **times, **subject, **created))
    return database


@on_two_databases
async def test_past_now_and_future_are_in_order_and_equal_attempts_are_one_line(
    console: Console, failing: Database
) -> None:
    page = await console.get("explain?id=db_1")
    assert page.status_code == 200
    text = words(page.text)
    assert "Resource db_1 of installation icfg_1" in text
    assert re.search(r"All 13 entries, oldest first · what happens next · icfg_1 ", text)
    order = [
        text.index(part)
        for part in ("event 1 was written", "12 × failed 502 in 71–82 ms, attempts 1–12, until", " now ", "attempt 13,")
    ]
    assert order == sorted(order)
    (details,) = re.findall(r"<details.*?</details>", page.text, re.DOTALL)
    assert details.count("<li>") == 12
    assert "<script>alert" not in page.text
    found = explain(failing, "db_1", GRACES, 200)
    assert found is not None
    assert words(page.text).count("attempt 7 (event 1)") == 1
    assert found.next[0].message in text


@pytest.mark.usefixtures("trouble")
async def test_a_dead_letter_leads_to_its_page(console: Console) -> None:
    html = (await console.get("explain?id=db_1")).text
    links = re.findall(
        r'<bdi><a href="\./dead-letters/(\d+)">dead letter (\d+)</a>(, rejected| waits for a person)', html
    )
    assert links == [("1", "1", ", rejected"), ("1", "1", " waits for a person")]


async def test_the_command_of_the_page_explains_the_same(console: Console, failing: Database, tmp_path: Path) -> None:
    page = await console.get(f"explain?id=db_1&installation={ID}")
    (command,) = commands_of(page.text)
    assert command == f"dispatcher explain db_1 --installation {ID} --limit 200"
    url = failing.engine.url.set(drivername="sqlite").render_as_string()
    ended = Terminal(tmp_path)(*shlex.split(command)[1:], "--json", database_url=url)
    assert len(ended.rows) == 14
    assert [row["attempt"] for row in ended.rows if row["what"] == "attempt"] == list(range(1, 13))


@pytest.mark.usefixtures("failing")
async def test_the_page_is_sent_again_only_if_something_has_happened(console: Console) -> None:
    first = await console.get("explain?id=db_1")
    assert (await console.get("explain?id=db_1", if_none_match=first.headers["etag"])).status_code == 304


async def test_an_installation_has_a_column_for_its_resources(console: Console, failing: Database) -> None:
    with failing.engine.begin() as connection:
        write(connection, "db_2")
    html = (await console.get(f"explain?id={ID}")).text
    assert "<th>Resource</th>" in html
    assert "<th>Installation</th>" not in html
    assert f'href="./explain?id=db_2&amp;installation={ID}"' in html
    assert f'href="./installations/{ID}"' in html
    with failing.engine.begin() as connection:
        write(connection, "db_1", installation_id="icfg_2")
    html = (await console.get("explain?id=db_1")).text
    assert "<th>Installation</th>" in html
    assert "<th>Resource</th>" not in html


@pytest.mark.usefixtures("failing")
async def test_what_was_left_out_is_said(console: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(explain_page, "LIMIT", 5)
    text = words((await console.get("explain?id=db_1")).text)
    assert "The newest 5 entries, oldest first" in text
    assert "Something was left out: only the newest 5 entries are shown, and at most 100,000 rows are searched" in text
    assert "attempt 13" in text


@pytest.mark.parametrize(
    ("is_running", "text"), [(True, ": the next event is sent"), (False, ", and no dispatcher is")]
)
async def test_when_nothing_waits_it_says_so(console: Console, failing: Database, text: str, is_running: bool) -> None:
    with failing.engine.begin() as connection:
        connection.execute(sa.delete(delivery))
        connection.execute(sa.delete(attempt))
    if not is_running:
        store.leave(failing, "one")
    page = words((await console.get(f"explain?id={ID}")).text)
    assert "Nothing is known of its past." in page
    assert f"Nothing is waiting{text}" in page


@on_two_databases
@pytest.mark.parametrize("query", ["id=<b>", "id=%00", "id=db_1&installation=icfg_2", "id=db_1&installation=%00"])
@pytest.mark.usefixtures("failing")
async def test_of_an_unknown_id_it_says_how_long_attempts_are_kept(console: Console, query: str) -> None:
    page = await console.get(f"explain?{query}")
    assert page.status_code == 404
    assert "Nothing is known of" in words(page.text)
    assert "Attempts are kept for 7d; is it spelled as your application writes it?" in words(page.text)
    assert "<b>" not in page.text.partition('<section class="empty">')[2].partition("</section>")[0]


async def test_without_successes_in_the_log_it_says_so(start: Start) -> None:
    console = await start(attempt_log=AttemptLog.FAILURES)
    assert "Only failed attempts are kept; is it" in words((await console.get("explain?id=db_1")).text)


async def test_without_an_id_it_asks_for_one(console: Console) -> None:
    page = await console.get("explain")
    assert page.status_code == 200
    assert 'name="id" value=""' in page.text
    assert "Nothing is known" not in page.text
