"""The causes of dead letters lead to exactly the dead letters that they count."""

import re
from html import unescape

import pytest
import sqlalchemy as sa
from starlette.datastructures import QueryParams

from dispatcher.console import dead_letters as page
from dispatcher.console.dead_letter_filter import Wanted
from dispatcher.database.transactions import Database
from dispatcher.inspection.causes import causes
from dispatcher.inspection.dead_letters import ADVICE, list_dead_letters
from dispatcher.outbox.tables import dead_letter
from dispatcher.policy.decision import DeadLetterReason
from dispatcher.store.dead_letters import Filter
from tests.console.conftest import Console, on_two_databases, words


def die(database: Database, *errors: str | None, status: int | None = None) -> None:
    """Adds dead letters of the same kind with these errors."""
    now = database.now()
    events = {"events": 1, "first_event_id": 1, "last_event_id": 1, "first_created_at": now}
    known = {"died_at": now, "attempts": 1, "reason": "exhausted", "installation_id": "icfg_9", "last_status": status}
    with database.engine.begin() as connection:
        for number, error in enumerate(errors):
            subject = {"subject_key": f"{number}", "type": "resource.updated", "resource_id": f"r_{number}"}
            connection.execute(sa.insert(dead_letter).values(**known, **events, **subject, last_error=error))


def shown(html: str) -> list[tuple[str, int]]:
    """The link and the number of each cause."""
    rows = re.findall(r'data-cause>([\d,]+)<.*?<td class="error-text"><a href="\./([^"]+)">', html, re.DOTALL)
    return [(unescape(link), int(number)) for number, link in rows]


@on_two_databases
async def test_each_cause_leads_to_as_many_rows_as_it_counts(console: Console, trouble: Database) -> None:
    die(trouble, "plan & plan_1 of 7", "plan & plan_22 of 8", "plan & plan_3", status=500)
    die(trouble, None, None)
    html = (await console.get("dead-letters")).text
    assert "8 unresolved in 5 causes, the largest first" in words(html)
    listed = shown(html)
    assert [number for _, number in listed] == [3, 2, 1, 1, 1]
    assert sum(number for _, number in listed) == len(list_dead_letters(trouble, Filter(), 99))
    for link, number in listed:
        assert (await console.get(link)).text.count('<tr id="letter-') == number, link
    for reason in ("rejected", "gone", "exhausted"):
        assert ADVICE[DeadLetterReason(reason)] in words(html).replace("&#39;", "'")


@on_two_databases
def test_the_link_of_a_cause_is_its_filter(trouble: Database) -> None:
    die(trouble, "plan a ", None, status=None)
    now = trouble.now()
    wanted = Wanted(installation="icfg_9", since="1h")
    for one in causes(trouble, wanted.filter(now)).largest:
        parsed = Wanted.of(QueryParams(wanted.of_cause(one).partition("?")[2]))
        assert parsed.is_list
        assert parsed.filter(now) == one.within(wanted.filter(now))


def test_a_text_wins_over_no_error() -> None:
    assert Wanted.of(QueryParams("no_error=1&error=x")).given == {"error": "x"}
    assert Wanted.of(QueryParams("no_error=1")).options == ("--error", "")


@pytest.mark.usefixtures("trouble")
async def test_a_filter_shows_the_causes_among_its_rows(console: Console) -> None:
    html = (await console.get("dead-letters?reason=gone&installation=icfg_1")).text
    assert [number for _, number in shown(html)] == [1]
    assert 'data-copy="dispatcher dead-letters causes --reason gone --installation icfg_1"' in html
    (as_list,) = re.findall(r'href="\./([^"]+)">As a list', html)
    listed = (await console.get(unescape(as_list))).text
    assert listed.count('<tr id="letter-') == 1
    assert 'href="./dead-letters?reason=gone&amp;installation=icfg_1">By cause' in listed
    assert "None matches" in (await console.get("dead-letters?reason=gone&resource=db_1")).text


@pytest.mark.usefixtures("trouble")
async def test_without_an_error_is_said_in_words(console: Console) -> None:
    text = words((await console.get("dead-letters?no_error=1&status=0")).text)
    assert "None matches status 0 · without an error — clear" in text


@pytest.mark.usefixtures("trouble")
async def test_what_was_not_read_is_said(console: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "MAX_READ_DEAD_LETTERS", 2)
    monkeypatch.setattr(page, "MAX_CAUSES", 1)
    text = words((await console.get("dead-letters")).text)
    assert "At least 2 unresolved in 2 causes" in text
    assert "Only 2 dead letters were read: the numbers are lower bounds" in text
    assert "The 1 largest are shown" in text
