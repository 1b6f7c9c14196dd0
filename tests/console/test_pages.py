"""The pages hold everything without a script, agree with the commands, and say what is wrong."""

import re
import shlex
from html import unescape
from pathlib import Path

import pytest
import sqlalchemy as sa

from dispatcher.console import now as now_page
from dispatcher.console.pages import PLACES, printable, tag_of
from dispatcher.console.search import find
from dispatcher.database import migration
from dispatcher.database.transactions import Database, open_database
from dispatcher.inspection.concerns import Concern, concerns
from dispatcher.inspection.dead_letters import ADVICE, list_dead_letters
from dispatcher.inspection.status import Recent, Status, read_status
from dispatcher.outbox.tables import VERSION_TABLE, attempt, dead_letter, outbox
from dispatcher.policy.decision import DeadLetterReason
from dispatcher.store.dead_letters import Filter
from tests.cli.conftest import Terminal
from tests.console.conftest import HOSTILE, Console, Start, on_two_databases, words
from tests.migration.revisions import FIRST, expand
from tests.tables import drop_tables

README = Path(__file__).parents[2] / "README.md"
DATA_PAGES = (
    "dead-letters",
    "dead-letters/1",
    "installations",
    "installations/icfg_1",
    "explain?id=db_1",
    "requests",
    "system",
)


def commands_of(html: str) -> list[str]:
    """The command lines that the page shows."""
    return [unescape(line) for line in re.findall(r'data-copy="([^"]+)"', html)]


def shown_ids(html: str) -> list[int]:
    """The dead letters that the list shows."""
    return [int(id_) for id_ in re.findall(r'<tr id="letter-(\d+)"', html)]


# ── Now


@on_two_databases
async def test_now_has_the_concerns_of_the_status_worst_first(console: Console, trouble: Database) -> None:
    page = await console.get("")
    expected = concerns(read_status(trouble))
    assert page.status_code == 200
    assert [one.urgent for one in expected] == [True, False, False]
    listed = re.findall(r'<li class="(bad|warn)">(.*?)</li>', page.text.partition("</ul>")[0], re.DOTALL)
    assert len(listed) == len(expected)
    for (tone, html), concern in zip(listed, expected, strict=True):
        assert tone == ("bad" if concern.urgent else "warn")
        assert concern.what[1:] in words(html)
        assert commands_of(html) == [shlex.join(["dispatcher", *concern.command])]
    assert "1 thing needs you, 2 more to look at" in words(page.text)
    for text in (
        "rejected 400 unknown product… 1 1",
        "gone 404 resource not found… 1 1",
        "unauthorized 1",
        "icfg_1 7",
        "web-1 1.2.3 3 running",
        "1 delivered",
        "1 failed",
    ):
        assert text in words(page.text), text


@pytest.mark.usefixtures("trouble")
async def test_now_names_the_first_installation_to_die(console: Console) -> None:
    assert re.search(
        r"icfg_2 is paused \(unauthorized\): its events begin to die in (24h|1d|23h 59m)",
        words((await console.get("")).text),
    )


async def test_a_concern_leads_to_as_many_rows_as_it_counts(console: Console, trouble: Database) -> None:
    with trouble.engine.begin() as connection:
        connection.execute(sa.update(dead_letter).where(dead_letter.c.reason == "gone").values(reason="disabled"))
    page = await console.get("")
    found = re.findall(r'<p>(Dead letters[^<]+)</p>.*?href="\./(dead-letters[^"]*)"', page.text, re.DOTALL)
    assert [text for text, _ in found] == ["Dead letters: 2 (2 rejected)", "Dead letters of disabled integrations: 1"]
    causes, disabled = [(await console.get(link.replace("&amp;", "&"))).text for _, link in found]
    assert re.findall(r"data-cause>(\d+)<", causes) == ["1", "1", "1"]
    assert len(shown_ids(disabled)) == 1
    assert '<span class="count">3</span>' in page.text


@pytest.mark.parametrize(
    ("command", "link"),
    [
        (("dead-letters", "list", "--reason", "disabled"), "dead-letters?view=list&reason=disabled"),
        (("dead-letters", "causes"), "dead-letters"),
        (("installations", "list", "--paused"), "installations?show=paused"),
        (("installations", "list", "--failing"), "installations?show=failing"),
        (("explain", "icfg_1"), "explain?id=icfg_1"),
        (("explain", "db 1", "--installation", "icfg_1"), "explain?id=db+1&installation=icfg_1"),
        (("check",), "system"),
        (("requests", "--failed"), "requests?outcome=failing"),
        (("migrate",), None),
    ],
)
def test_a_command_has_its_page(command: tuple[str, ...], link: str | None) -> None:
    assert now_page.link_of(Concern(False, "", command)) == link


@pytest.mark.usefixtures("trouble")
@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("", ["installations/icfg_1", "explain?id=db_9&amp;installation=icfg_1", "installations?show=paused"]),
        ("dead-letters?view=list", ["installations/icfg_1", "explain?id=db_3&amp;installation=icfg_1"]),
        ("dead-letters/1", ["installations/icfg_1", "explain?id=db_1&amp;installation=icfg_1"]),
    ],
)
async def test_ids_lead_to_their_pages(console: Console, path: str, expected: list[str]) -> None:
    html = (await console.get(path)).text
    for link in expected:
        assert re.search(rf'href="[./]*/{re.escape(link)}"', html), link


async def test_an_empty_database_shows_how_to_publish(console: Console) -> None:
    text = words((await console.get("")).text)
    assert "Nothing needs you" in text
    assert "No dispatcher is running" in text
    html = (await console.get("")).text.replace("&#34;", '"')
    for line in re.search(r"<pre><code>(.*?)</code>", html, re.DOTALL)[1].split("\n\n"):  # type: ignore[index]  # it is there
        assert line in README.read_text()
    assert (await console.get("dead-letters")).text.count("Nothing has died") == 1


async def test_a_healthy_one_says_so(console: Console, trouble: Database) -> None:
    with trouble.engine.begin() as connection:
        for table in ("vercel_dead_letter", "vercel_installation", "vercel_outbox"):
            connection.exec_driver_sql(f"DELETE FROM {table}")
        connection.exec_driver_sql("DELETE FROM vercel_attempt WHERE outcome = 'failed'")
    text = words((await console.get("")).text)
    assert "Nothing needs you" in text
    assert re.search(r"The last request was made \S+ ago : delivered 200 , db_1 of icfg_1", text)
    assert "Publish the first event" not in text


async def test_only_warnings_need_nobody(console: Console, trouble: Database) -> None:
    with trouble.engine.begin() as connection:
        connection.execute(sa.delete(dead_letter))
        connection.execute(sa.delete(outbox))
        connection.exec_driver_sql(
            "UPDATE vercel_installation SET pause_reason = 'operator' WHERE pause_reason IS NOT NULL"
        )
    assert re.search("Nothing urgent, [12] things? to look at", words((await console.get("")).text))


def test_the_bar_is_filled_by_the_outcomes() -> None:
    pieces = list(now_page.shares(Recent(300, {"delivered": 6, "failed": 3, "throttled": 1}, None, None, None)))
    assert [(one.tone, one.begin, one.width) for one in pieces] == [("good", 0, 60), ("bad", 60, 30), ("wait", 90, 10)]


# ── dead letters


@on_two_databases
@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        ("", Filter()),
        ("?reason=rejected", Filter(reason=DeadLetterReason.REJECTED)),
        ("?installation=icfg_1&resource=db_2", Filter(installation_id="icfg_1", resource_id="db_2")),
        ("?since=1h&reason=gone", Filter(reason=DeadLetterReason.GONE)),
        ("?show=all", None),
    ],
)
async def test_the_list_has_the_rows_of_its_filter_and_of_its_command(
    console: Console, trouble: Database, query: str, wanted: Filter | None
) -> None:
    page = await console.get(f"dead-letters{query}{'&' if query else '?'}view=list")
    letters = list_dead_letters(trouble, wanted or Filter(), 50, resolved=wanted is None)
    assert shown_ids(page.text) == [one.id for one in letters]
    command = commands_of(page.text)[-1]
    assert command.startswith("dispatcher dead-letters list")


@pytest.mark.parametrize(
    "path",
    [
        "",
        "dead-letters?reason=rejected&since=1h&view=list",
        "dead-letters?status=422&error=%3Cscript",
        "dead-letters?reason=gone&no_error=1&before=3&status=0",
        "dead-letters?id=1&id=3,2",
        "dead-letters?show=all&resource=db_1",
        "dead-letters?limit=500",
        "dead-letters/2",
    ],
)
async def test_each_page_names_a_command_that_finds_the_same(
    console: Console, trouble: Database, tmp_path: Path, path: str
) -> None:
    dispatcher = Terminal(tmp_path)
    commands = commands_of((await console.get(path)).text)
    url = trouble.engine.url.set(drivername="sqlite").render_as_string()
    ended = dispatcher(*shlex.split(commands[-1])[1:], "--json", database_url=url)
    assert ended.code in {0, 3}, ended.err
    if "?" in path:
        assert [row["id"] for row in ended.rows] == shown_ids((await console.get(path)).text)
    for command in commands[:-1]:
        _, *words_ = shlex.split(command)
        dry_run = ["--dry-run"] if words_[1:2] in (["replay"], ["discard"]) else []
        assert dispatcher(*words_, *dry_run, database_url=url).code in {0, 1, 3}


async def test_a_long_list_is_cut_and_says_so(console: Console, trouble: Database) -> None:
    copied = [column for column in dead_letter.c if column.name != "id"]
    with trouble.engine.begin() as connection:
        for _ in range(60):
            row = sa.select(*copied).where(dead_letter.c.resource_id == "db_3").limit(1)
            connection.execute(sa.insert(dead_letter).from_select([column.name for column in copied], row))
    page = await console.get("dead-letters?reason=gone&view=list")
    assert len(shown_ids(page.text)) == 50
    (longer,) = re.findall(r'href="\./(dead-letters\?[^"]*limit=500)"', page.text)
    assert len(shown_ids((await console.get(longer.replace("&amp;", "&"))).text)) == 61
    (older,) = re.findall(r'href="\./(dead-letters\?[^"]*)" rel="next"', page.text)
    rest = await console.get(older.replace("&amp;", "&"))
    assert (len(shown_ids(rest.text)), "may be more" in rest.text) == (11, False)
    assert set(shown_ids(rest.text)).isdisjoint(shown_ids(page.text))


async def test_a_filter_without_matches_offers_to_clear_it(console: Console, trouble: Database) -> None:
    text = words((await console.get("dead-letters?reason=gone&resource=db_1")).text)
    assert "None matches reason gone · resource db_1 — clear" in text
    assert read_status(trouble).backlog.dead_letters


@pytest.mark.parametrize(
    ("query", "error"),
    [
        ("since=yesterday", "Died since cannot be read: write how long ago"),
        ("installation=%00", "Installation has a character that no text in the database has"),
        ("error=%00", "Error begins with has a character that no text in the database has"),
        ("reason=none", "Reason is none of rejected, unauthorized, "),
        ("status=1000", "Status is not a number from 0 to 999"),
        ("id=7,x", "Id is not a number from 1 to"),
        ("before=0", "The page is not a number from 1 to"),
    ],
)
async def test_a_filter_that_cannot_be_used_keeps_its_fields_and_says_why(
    console: Console, trouble: Database, query: str, error: str
) -> None:
    page = await console.get(f"dead-letters?{query}&resource=db_1")
    assert page.status_code == 400
    assert error in words(page.text)
    assert page.text.count("aria-invalid") == (0 if "before" in query else 1)
    assert 'name="resource" value="db_1"' in page.text
    assert not shown_ids(page.text)
    assert read_status(trouble).backlog.dead_letters


@on_two_databases
@pytest.mark.parametrize("page", ["dead-letters", "requests"])
async def test_a_resource_with_a_nul_is_refused(console: Console, page: str) -> None:
    answer = await console.get(f"{page}?resource=db%00_1")
    assert answer.status_code == 400
    assert "Resource has a character that no text in the database has" in words(answer.text)


@on_two_databases
async def test_one_dead_letter_has_its_advice_and_its_attempts(console: Console, trouble: Database) -> None:
    (letter,) = list_dead_letters(trouble, Filter(resource_id="db_1"), 1)
    text = words((await console.get(f"dead-letters/{letter.id}")).text)
    for part in (
        ADVICE[DeadLetterReason.REJECTED],
        "rejected, 400",
        "unresolved",
        "3 (ids 1 to 3)",
        "1",
        "502",
        "unknown product",
    ):
        assert part in text, part
    assert len(re.findall(r"\b88\b", text)) == 2  # milliseconds


@pytest.mark.usefixtures("trouble")
async def test_a_list_with_one_reason_has_its_number_and_its_advice(console: Console) -> None:
    text = words((await console.get("dead-letters?status=422")).text)
    assert "1 dead letter, newest first" in text
    assert ADVICE[DeadLetterReason.REJECTED] in text
    text = words((await console.get("dead-letters?view=list")).text)
    assert "3 dead letters, newest first" in text
    assert "What to do" not in text


async def test_a_replayed_one_leads_to_what_became_of_it(console: Console, trouble: Database) -> None:
    with trouble.engine.begin() as connection:
        resolved = {"resolution": "replayed", "resolved_at": trouble.now()}
        connection.execute(sa.update(dead_letter).where(dead_letter.c.resource_id == "db_3").values(**resolved))
    (letter,) = list_dead_letters(trouble, Filter(resource_id="db_3"), 1, resolved=True)
    html = (await console.get(f"dead-letters/{letter.id}")).text
    assert re.search(r'What became of it is in <a href="\.\./explain\?id=db_3&amp;installation=icfg_1">', html)


async def test_a_resolved_one_says_who_and_why(console: Console, trouble: Database) -> None:
    (letter,) = [one for one in list_dead_letters(trouble, Filter(), 9, resolved=True) if one.resolution]
    page = await console.get(f"dead-letters/{letter.id}")
    assert "by <b>anna</b>" in page.text
    assert "“<bdi>&lt;b&gt;typo&lt;/b&gt;</bdi>”" in page.text
    assert "What to do" not in page.text


@pytest.mark.parametrize("id_", ["999", str(2**63)])
async def test_a_row_that_is_gone_is_a_404_with_the_reason(console: Console, id_: str) -> None:
    page = await console.get(f"dead-letters/{id_}")
    assert page.status_code == 404
    assert f"There is no dead letter {id_}" in page.text
    assert "Resolved ones are kept for 90d" in page.text


async def test_hostile_text_is_only_text(console: Console, trouble: Database) -> None:
    (letter,) = list_dead_letters(trouble, Filter(resource_id="db_2"), 1)
    assert letter.last_error == HOSTILE
    for path in ("", "dead-letters", "dead-letters?view=list", f"dead-letters/{letter.id}", "requests"):
        html = (await console.get(path)).text
        assert "<script>alert" not in html
        is_cause = path in {"", "dead-letters"}
        rest = "" if is_cause else "1)&lt;/script&gt;&#39;&#34;&amp;\\u202egpj\\x1b[2J"
        assert f"&lt;script&gt;alert({rest}" in html, path


def test_line_breaks_stay() -> None:
    assert printable("a\nb\r\x1b") == "a\nb\\r\\x1b"
    assert printable(7) == 7


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("", ""),
        ("1041", "dead-letters/1041"),
        ("icfg_9", "installations/icfg_9"),
        ("icfg_9/?", "explain?id=icfg_9%2F%3F"),
        ("db 1&x", "explain?id=db+1%26x"),
        ("٣", "explain?id=%D9%A3"),
    ],
)
async def test_the_search_leads_to_the_page_that_knows_the_id(console: Console, text: str, url: str) -> None:
    assert find(text) == url
    answer = await console.browser.get(console.at("search"), params={"q": text})
    assert str(answer.url) == console.at(url) if url else answer.url.path == "/"


# ── the frame


async def test_the_frame_says_where_one_is(start: Start, trouble: Database) -> None:
    console = await start(console_label="Production <1>")
    html = (await console.get("dead-letters")).text
    assert '<strong class="label">Production &lt;1&gt;</strong>' in html
    assert str(trouble.engine.url.database) in html
    assert re.findall(r'<a href="\./([^"]*)" data-key="(\w)"', html) == [(place.path, place.key) for place in PLACES]
    assert html.count("aria-current") == 1
    assert '<span class="who">read-only</span>' in html


async def test_a_page_is_sent_again_only_if_more_than_the_time_has_changed(console: Console, trouble: Database) -> None:
    with trouble.engine.begin() as connection:
        connection.execute(sa.delete(outbox))
        connection.execute(sa.delete(attempt))  # the chart moves with each minute
    first = await console.get("")
    later = await console.get("", if_none_match=first.headers["etag"])
    assert (later.status_code, later.content) == (304, b"")
    assert later.headers["x-now"] > first.headers["x-now"]
    assert (await console.get("", if_none_match='"other"')).status_code == 200


def test_the_tag_leaves_out_what_only_time_changes() -> None:
    page = '<time id="as-of" datetime="{0}" data-now="{0}">{0}</time> <time datetime="1" title="1">{0} ago</time> {1}'
    assert tag_of(page.format("3s", "db_1")) == tag_of(page.format("4s", "db_1"))
    assert tag_of(page.format("3s", "db_1")) != tag_of(page.format("3s", "db_2"))
    assert tag_of('<time datetime="1">x') != tag_of('<time datetime="2">x')


# ── when the database is not as it should be


class Away:
    """A database that answers, and later does not."""

    def __init__(self, database: Database) -> None:
        self.gone = open_database("postgresql://me:hush@127.0.0.1:1/app")
        self.database = database

    def leave(self) -> None:
        self.database.engine, self.database._reading = self.gone.engine, self.gone._reading
        self.database.dialect = self.gone.dialect


async def test_when_the_database_is_away_the_last_reading_stays_in_grey(
    start: Start, trouble: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dispatcher.console.reading.SHARED_SECONDS", 0.0)
    opened = open_database(trouble.engine.url.set(drivername="sqlite").render_as_string())
    console = await start(opened=opened)
    assert (await console.get("")).status_code == 200
    Away(opened).leave()
    page = await console.get("")
    assert (page.status_code, page.headers["retry-after"]) == (503, "5")
    assert "Stale: the database cannot be reached: connection refused. Below is what was known before." in words(
        page.text
    )
    assert '<main id="main" tabindex="-1" class="stale">' in page.text
    assert "Dead letters: 3" in page.text
    assert "unknown product" in page.text
    assert '<details id="minutes">' in page.text
    assert "hush" not in page.text
    for path in DATA_PAGES:
        page = await console.get(path)
        assert (page.status_code, page.headers["retry-after"]) == (503, "5")
        assert "No data: the database cannot be reached: connection refused." in words(page.text)


async def test_a_list_that_cannot_be_read_says_so(start: Start, database: Database) -> None:
    opened = open_database(database.engine.url.set(drivername="sqlite").render_as_string())
    console = await start(opened=opened)
    assert (await console.get("")).status_code == 200
    Away(opened).leave()
    for path in DATA_PAGES:
        assert (await console.get(path)).status_code == 503


async def test_missing_tables_are_named(start: Start, bare_database: Database) -> None:
    drop_tables(bare_database)
    page = await (await start(opened=bare_database)).get("dead-letters")
    assert page.status_code == 503
    assert "the dispatcher&#39;s tables are missing: run `dispatcher migrate`" in words(page.text)


async def test_a_schema_of_another_major_version_is_named(console: Console, database: Database) -> None:
    with database.engine.begin() as connection:
        connection.exec_driver_sql(f"UPDATE {VERSION_TABLE} SET version_num = '9999'")
    page = await console.get("dead-letters")
    assert page.status_code == 503
    assert "it is older than the database, upgrade it" in words(page.text)


async def test_a_file_that_does_not_exist_is_named_and_not_made(start: Start, tmp_path: Path) -> None:
    opened = open_database(f"sqlite:///{tmp_path}/other.db")
    console = await start(opened=opened)
    page = await console.get("")
    assert page.status_code == 503
    assert "there is no database file" in words(page.text)
    assert not (tmp_path / "other.db").exists()


async def test_a_newer_schema_of_the_same_major_version_is_as_good(console: Console, database: Database) -> None:
    expand(database)
    page = await console.get("")
    assert page.status_code == 200
    assert "notice" not in page.text.replace('id="notice"', "")


async def test_an_older_schema_works_with_a_warning(console: Console, database: Database) -> None:
    migration.downgrade(database, FIRST)
    page = await console.get("")
    assert page.status_code == 200
    assert "Run `dispatcher migrate`" in words(page.text)
    assert "Not known: run dispatcher migrate" in words(page.text)


async def test_a_bug_is_a_page_too(console: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Status) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(now_page, "concerns", fail)
    page = await console.get("")
    assert page.status_code == 500
    assert "ZeroDivisionError. The log of the console has more" in page.text
    assert page.headers["content-security-policy"]


async def test_a_page_that_does_not_exist_says_so(console: Console) -> None:
    page = await console.get("no/such/page")
    assert page.status_code == 404
    assert "There is no such page" in page.text
    assert 'href="../../static/' in page.text
