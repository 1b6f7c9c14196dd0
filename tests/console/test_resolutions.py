"""The page of operations has the resolutions that the database knows, and leads to what became of them."""

import re
import shlex
from html import unescape
from pathlib import Path

import pytest

from dispatcher.console import operation_pages as page
from dispatcher.database.transactions import Database
from dispatcher.inspection.dead_letters import plan
from dispatcher.store.dead_letters import Filter, Signature, discard, replay
from tests.cli.conftest import Terminal
from tests.console.conftest import HOSTILE, Console, on_two_databases, words
from tests.console.test_pages import commands_of, shown_ids


def replay_one(database: Database, note: str = "linked") -> None:
    wanted = Filter(resource_id="db_1")
    replay(database, wanted, plan(database, wanted).last_id, Signature("ben", note), lambda _: None)


@on_two_databases
async def test_each_leads_to_its_dead_letters_and_to_what_became_of_them(console: Console, trouble: Database) -> None:
    replay_one(trouble)
    html = (await console.get("operations")).text
    assert "Of this console" not in html
    assert re.search(r":00 replayed 1 ben linked What became of it \S+ \S+ discarded 1 anna ", words(html))
    letters, discarded = re.findall(r'href="\./(dead-letters\?[^"]+)"', html)
    assert len(shown_ids((await console.get(unescape(letters))).text)) == 1
    assert len(shown_ids((await console.get(unescape(discarded))).text)) == 1
    (followed,) = re.findall(r'href="\./(operations/aftermath[^"]+)"', html)
    answer = await console.get(unescape(followed))
    assert "1 replayed dead letter; a resource" in words(answer.text)
    assert "Delivered 0 resources or installations Waiting 1 to be sent Died again 0 new dead letters" in words(
        answer.text
    )


@pytest.mark.parametrize(
    "path", ["operations", "operations/aftermath?since=1h&by=ben", "operations/aftermath?until=1m"]
)
async def test_the_command_of_the_page_finds_the_same(
    console: Console, trouble: Database, tmp_path: Path, path: str
) -> None:
    replay_one(trouble)
    html = (await console.get(path)).text
    url = trouble.engine.url.set(drivername="sqlite").render_as_string()
    rows = Terminal(tmp_path)(*shlex.split(commands_of(html)[-1])[1:], "--json", database_url=url).rows
    if path == "operations":
        assert [row["by"] for row in rows] == ["ben", "anna"]
    elif "ben" in path:
        assert [row["dead_letters"] for row in rows] == [1]
    else:
        assert rows == []
        assert "None was replayed" in html


@on_two_databases
@pytest.mark.parametrize(
    ("query", "error"),
    [
        ("since=yesterday", "Replayed since cannot be read"),
        ("until=x", "Replayed until cannot be read"),
        ("by=%00", "By has a character that no text in the database has"),
    ],
)
async def test_a_field_that_cannot_be_used_is_marked(console: Console, query: str, error: str) -> None:
    answer = await console.get(f"operations/aftermath?{query}")
    assert answer.status_code == 400
    assert error in words(answer.text)
    assert answer.text.count("aria-invalid") == 1


async def test_without_a_resolution_it_says_so(console: Console) -> None:
    assert "No dead letter was replayed or discarded." in words((await console.get("operations")).text)


async def test_a_list_that_is_cut_says_so(console: Console, trouble: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    discard(trouble, Filter(), plan(trouble, Filter()).last_id, Signature("ben", HOSTILE), lambda _: None)
    monkeypatch.setattr(page, "ROWS", 1)
    html = (await console.get("operations")).text
    assert "1 are shown, there may be more." in words(html)
    assert "<script>alert" not in html


async def test_those_who_only_read_find_it(console: Console) -> None:
    assert 'href="./operations" data-key="o">Operations</a>' in (await console.get("")).text
