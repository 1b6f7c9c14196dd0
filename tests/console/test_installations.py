"""The pages of installations: the views and their order, and one installation with its deadline and its rate limit."""

import re
import shlex
from datetime import datetime, timedelta
from html import unescape
from pathlib import Path

import pytest
import sqlalchemy as sa

from dispatcher import store
from dispatcher.console import installations as page_module
from dispatcher.console.installations import ROWS
from dispatcher.database.transactions import Database
from dispatcher.inspection.graces import Graces
from dispatcher.inspection.installation_detail import PAUSE_ADVICE, find_installation
from dispatcher.inspection.installation_list import MAX_COUNTED_INSTALLATIONS
from dispatcher.inspection.installations import MAX_COUNTED_DELIVERIES
from dispatcher.outbox.tables import delivery, installation
from dispatcher.policy.decision import PauseReason
from dispatcher.policy.rate_window import RateLimit, RateWindow
from dispatcher.store import installations
from dispatcher.store.dead_letters import Signature
from tests.cli.conftest import Terminal
from tests.console.conftest import HOSTILE, Console, Start, on_two_databases, words
from tests.console.test_pages import commands_of
from tests.contract.steps import ID, write

MINUTELY = RateLimit(60, 60.0)
GRACES = Graces(timedelta(hours=24), timedelta(days=30))


def add(database: Database, **rows: dict[str, object]) -> None:
    """Writes these installations."""
    with database.engine.begin() as connection:
        for id_, values in rows.items():
            connection.execute(sa.insert(installation).values(installation_id=id_, **values))


def change(database: Database, **values: object) -> None:
    with database.engine.begin() as connection:
        connection.execute(sa.update(installation).where(installation.c.installation_id == ID).values(**values))


def collect(database: Database, *resources: str) -> None:
    with database.engine.begin() as connection:
        write(connection, *resources)
    store.collect(database, 5_000)


def paused(reason: str, since: datetime) -> dict[str, object]:
    probe = {"paused_until": since + timedelta(days=99), "due_at": since + timedelta(days=99)}
    return {"pause_reason": reason, "paused_since": since, "failures": 9, **probe}


def listed(html: str) -> list[str]:
    """The installations in the order of the list."""
    return re.findall(r'<tr id="of-([^"]+)"', html)


@pytest.fixture
def some(database: Database) -> Database:
    """Installations of each view."""
    now = database.now()
    add(
        database,
        icfg_dying=paused("unauthorized", now - timedelta(hours=20, seconds=-20)),
        icfg_by_hand=paused("operator", now - timedelta(hours=30)) | {"paused_until": installations.FOREVER},
        icfg_soon=paused("no_credential", now - timedelta(hours=23, seconds=-20)),
        failing={"failures": 7, "due_at": now + timedelta(hours=1)},
        late={"due_at": now - timedelta(minutes=1)},
        idle={"last_delivered_at": now - timedelta(minutes=5, seconds=20)},
    )
    return database


@on_two_databases
@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("?show=paused", ["icfg_soon", "icfg_dying", "icfg_by_hand"]),
        ("?show=failing", ["failing"]),
        ("?show=behind", ["late"]),
        ("?show=paused&prefix=icfg_d", ["icfg_dying"]),
        ("?show=paused&reason=no_credential", ["icfg_soon"]),
        ("?show=failing&reason=no_credential", ["failing"]),
        ("?show=nonsense&prefix=i", ["icfg_soon", "icfg_dying", "icfg_by_hand", "idle"]),
    ],
)
@pytest.mark.usefixtures("some")
async def test_each_view_has_its_installations_in_its_order(console: Console, query: str, expected: list[str]) -> None:
    assert listed((await console.get(f"installations{query}")).text) == expected


@pytest.mark.parametrize(
    "path", ["installations?show=paused&prefix=icfg_&reason=operator", "installations", "installations/icfg_soon"]
)
async def test_the_command_of_the_page_finds_the_same(
    console: Console, some: Database, tmp_path: Path, path: str
) -> None:
    page = await console.get(path)
    command = shlex.split(commands_of(page.text)[-1])
    url = some.engine.url.set(drivername="sqlite").render_as_string()
    ended = Terminal(tmp_path)(*command[1:], "--json", database_url=url)
    if "/" in path:
        assert ended.rows[0]["installation"]["installation_id"] == "icfg_soon"
    else:
        assert [row["installation_id"] for row in ended.rows] == listed(page.text)


@pytest.mark.usefixtures("some")
async def test_a_paused_one_shows_when_it_begins_to_die_and_one_by_hand_never_does(console: Console) -> None:
    html = (await console.get("installations?show=paused")).text
    assert 'aria-sort="ascending">Begins to die' in html
    rows = {row: words(html.partition(f'id="of-{row}"')[2].partition("</tr>")[0]) for row in listed(html)}
    assert re.search(r" paused 0 no credential 2\dh .*ago in 98d 1h in (1h|59m \d+s) never$", rows["icfg_soon"])
    assert rows["icfg_by_hand"].endswith(" operator 1d 6h ago when resumed never never")


@pytest.mark.usefixtures("some")
async def test_the_views_are_counted_and_keep_the_prefix(console: Console) -> None:
    html = (await console.get("installations?show=failing")).text
    assert "Paused 3 Failing 1 Behind 1 All" in words(html)
    assert html.count('aria-current="true"') == 1
    html = (await console.get("installations?show=paused&prefix=icfg_d")).text
    assert "Paused 1 Failing 0 Behind 0 All" in words(html)
    assert 'href="./installations?show=behind&amp;prefix=icfg_d"' in html


async def test_a_long_list_is_cut_and_its_counts_are_bounded(console: Console, database: Database) -> None:
    now = database.now()
    add(database, **{f"icfg_{n}": {"due_at": now, "failures": 1} for n in range(MAX_COUNTED_INSTALLATIONS)})
    html = (await console.get("installations?show=behind")).text
    assert len(listed(html)) == ROWS
    assert f"{ROWS} are shown, there may be more. Next" in words(html)
    assert "Paused 0 Failing 1,000+ Behind 1,000+ All" in words(html)
    assert "1 failure in a row" in words(html)


@on_two_databases
@pytest.mark.usefixtures("some")
async def test_the_pages_have_each_installation_once(console: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = listed((await console.get("installations")).text)
    monkeypatch.setattr(page_module, "ROWS", 4)
    first = await console.get("installations")
    (link,) = re.findall(r'href="\./([^"]+)" rel="next"', first.text)
    second = await console.get(unescape(link))
    assert listed(first.text) + listed(second.text) == whole
    assert 'href="./installations?show=all" rel="first">From the beginning' in second.text
    assert 'rel="next"' not in second.text
    command = commands_of(second.text)[-1]
    assert re.fullmatch(r"dispatcher installations list --after by_hand\.\d+\.icfg_by_hand", command)
    monkeypatch.setattr(page_module, "ROWS", 2)
    third = await console.get(f"{unescape(link)}&prefix=x")
    assert "None follows From the beginning" in words(third.text)


@pytest.mark.parametrize("key", ["icfg_1", "failing.-1.icfg_1", "by_hand.x.icfg_1", "by_hand.1.%00"])
@pytest.mark.usefixtures("some")
async def test_a_key_that_is_none_is_refused(console: Console, key: str) -> None:
    page = await console.get(f"installations?show=paused&after={key}")
    assert page.status_code == 400
    assert "The page is no key of this list" in words(page.text)


async def test_deliveries_beyond_the_bound_are_not_counted(console: Console, database: Database) -> None:
    collect(database, *(f"db_{n}" for n in range(MAX_COUNTED_DELIVERIES)))
    assert '<td class="n">1,000+</td>' in (await console.get("installations")).text


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ("", "No installation is known yet"),
        ("?show=paused", "No installation is paused"),
        ("?show=failing", "No installation is failing"),
        ("?show=behind", "No installation has work that is due"),
        ("?show=behind&prefix=x", "None matches behind · prefix x — clear"),
        ("?show=paused&reason=disabled", "None matches paused · reason disabled — clear"),
    ],
)
async def test_an_empty_view_says_so(console: Console, query: str, text: str) -> None:
    assert text in words((await console.get(f"installations{query}")).text)


@pytest.mark.usefixtures("some")
async def test_a_prefix_that_no_id_has_is_refused_and_kept(console: Console) -> None:
    page = await console.get("installations?show=paused&prefix=%00%22<")
    assert page.status_code == 400
    assert "Beginning of the id has characters other than letters, digits, _ and -" in words(page.text)
    assert page.text.count("aria-invalid") == 1
    assert 'value="\\x00&#34;&lt;"' in page.text
    assert not listed(page.text)


@pytest.mark.usefixtures("some")
async def test_the_reason_is_chosen_among_the_paused_ones_and_leads_there(console: Console) -> None:
    html = (await console.get("installations?show=paused&reason=no_credential")).text
    assert '<option value="no_credential" selected>no credential</option>' in html
    assert "Paused 3 Failing 1" in words(html)
    assert 'href="./installations?show=paused"' in html
    assert 'name="reason"' not in (await console.get("installations?show=failing")).text
    assert (
        'href="./installations?show=paused&amp;reason=no_credential">no credential</a>' in (await console.get("")).text
    )
    page = await console.get("installations?show=paused&reason=tired")
    assert page.status_code == 400
    assert "Reason is none of unauthorized, " in words(page.text)
    assert page.text.count("aria-invalid") == 1


# ── one installation


@on_two_databases
@pytest.mark.usefixtures("some")
async def test_the_title_has_the_state_and_the_deadline(console: Console) -> None:
    text = words((await console.get("installations/icfg_dying")).text)
    assert re.search(r"icfg_dying paused: unauthorized begins to die in (4h|3h 5\dm)", text)
    assert "9 failures in a row · nothing delivered yet" in text
    assert PAUSE_ADVICE[PauseReason.UNAUTHORIZED] in text.replace("&#39;", "'")
    assert "dispatcher installations resume icfg_dying" in text


@on_two_databases
@pytest.mark.usefixtures("trouble")
async def test_its_newest_requests_say_why_it_fails(console: Console) -> None:
    html = (await console.get(f"installations/{ID}")).text
    (rows,) = re.findall(r'aria-label="The newest requests">.*?<tbody>(.*?)</tbody>', html, re.DOTALL)
    newest, older = (words(row) for row in rows.split("</tr>")[:-1])
    assert re.search(r"[\d-]+ [\d:]+ failed 502 &lt;script", newest)
    assert re.search(r"[\d-]+ [\d:]+ delivered 200 ", older)
    assert f'href="../requests?installation={ID}"' in html
    assert f'href="../dead-letters?installation={ID}"' in html


async def test_a_deadline_that_is_over_is_past(console: Console, database: Database) -> None:
    add(database, icfg_1=paused("unauthorized", database.now() - timedelta(hours=25)))
    assert "began to die 1h ago" in words((await console.get("installations/icfg_1")).text)


async def test_who_paused_it_and_why_is_shown(console: Console, database: Database) -> None:
    collect(database, "db_1")
    installations.pause(database, ID, Signature("anna", HOSTILE))
    html = (await console.get(f"installations/{ID}")).text
    assert "paused: operator never dies" in words(html)
    assert "by <b>anna</b>: “<bdi>&lt;script&gt;" in html
    assert PAUSE_ADVICE[PauseReason.OPERATOR] in html
    installations.pause(database, ID, Signature("anna"))
    change(database, paused_by=None, pause_note=None)
    assert "Paused by an operator. Nothing is sent" in words((await console.get(f"installations/{ID}")).text)


async def test_the_use_of_the_rate_limit_is_that_of_the_window(console: Console, database: Database) -> None:
    collect(database, *(f"db_{n}" for n in range(240)))
    now = database.now().timestamp()
    window = RateWindow(60, 60.0, str([now - 10] * 41))
    change(database, rate_window=window.stored(now))
    html = (await console.get(f"installations/{ID}")).text
    found = find_installation(database, ID, GRACES, MINUTELY, 1)
    assert found is not None
    assert found.rate is not None
    assert (found.rate.used, window.used(now)) == (41, 41)
    assert 'aria-label="41 of 60 used"><rect class="good" width="68.33%"' in html
    assert re.search(r"41 of 60 used · next place now · 240 wait: at least 3m \d+s", words(html))
    assert "240 deliveries, the first 10 to become due" in words(html)
    change(database, rate_window=str([now - 30] * 60))
    html = (await console.get(f"installations/{ID}")).text
    assert re.search(r"60 of 60 used · next place in [0-9.]+s", words(html))
    assert '<rect class="wait" width="100' in html


@pytest.mark.parametrize(
    ("limit", "stored", "text"), [(None, None, "Not limited."), (MINUTELY, "x", "its use cannot be read")]
)
async def test_without_a_window_no_use_is_shown(
    start: Start, database: Database, limit: RateLimit | None, stored: str | None, text: str
) -> None:
    console = await start(rate_limit=limit)
    collect(database, "db_1")
    change(database, rate_window=stored)
    assert text in words((await console.get(f"installations/{ID}")).text)


async def test_it_says_what_keeps_its_deliveries_waiting(console: Console, database: Database) -> None:
    collect(database, "db_1")
    now = database.now()
    until = now + timedelta(minutes=10)
    lease = {"lease_token": "t", "leased_by": "web-1", "leased_until": until}
    with database.engine.begin() as connection:
        connection.execute(sa.update(delivery).values(attempts=3, due_at=until))
    change(database, faults=2, failures=2, throttled_until=until, **lease)
    text = words((await console.get(f"installations/{ID}")).text)
    assert "Breaker closed (2 of 5 faults)" in text
    assert re.search(r"Lease web-1 , until \d{4}-", text)
    assert re.search(r"Throttled until \d{4}-", text)
    assert re.search(r"db_1 in (10m|9m 5\ds) 3 of 20 1 in \S+ .*attempt 4, by web-1, which holds the lease", text)
    change(database, faults=7, leased_until=now, throttled_until=None)
    text = words((await console.get(f"installations/{ID}")).text)
    assert "Breaker open, one probe at a time (7 faults)" in text
    assert "Lease web-1 , expired at" in text
    assert "Throttled no" in text


@pytest.mark.usefixtures("some")
async def test_an_idle_one_has_nothing_that_waits(console: Console) -> None:
    page = await console.get("installations/idle")
    assert "Nothing waits for it." in words(page.text)
    assert re.search(r"last delivered 5m \d+s ago · its history", words(page.text))
    assert 'href="../explain?id=idle"' in page.text


@pytest.mark.parametrize("id_", ["icfg_other", "%00", "ic%20fg"])
@pytest.mark.usefixtures("some")
async def test_an_unknown_one_is_a_404_that_leads_on(console: Console, id_: str) -> None:
    page = await console.get(f"installations/{id_}")
    assert page.status_code == 404
    assert "There is no installation" in words(page.text)
    assert f'href="../explain?id={id_.replace("%20", "+")}"' in page.text
