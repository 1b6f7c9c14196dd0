"""The page *System*: what runs, and with what; secrets are hidden."""

from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from pydantic import SecretStr

from dispatcher.console import system as page
from dispatcher.console.system import clocks
from dispatcher.database import migration, revisions
from dispatcher.database.transactions import Database
from dispatcher.inspection.system import System, read_system
from dispatcher.outbox.tables import dispatcher, installation
from dispatcher.settings.settings import Settings, describe
from tests.cli.conftest import Terminal
from tests.console.conftest import Console, Start, on_two_databases, words
from tests.contract.databases import EVERY
from tests.migration.revisions import FIRST

SECRET = "hush" * 10


@pytest.mark.parametrize("server", EVERY, indirect=True)
async def test_it_names_the_database_its_schema_and_what_runs(console: Console, trouble: Database) -> None:
    text = words((await console.get("system")).text)
    found = read_system(trouble)
    assert found.revision == found.newest_revision == revisions.newest()
    assert found.server.startswith(("sqlite", "postgresql ", "mysql ", "mariadb "))
    for part in (
        "web-1 running 1.2.3 3",
        f"Server {found.server}",
        f"Driver {trouble.engine.driver}",
        f"Revision {revisions.newest()}, the newest",
        "this machine agree to the second",
        "0 held, 0 expired.",
    ):
        assert part in text, part
    assert 'data-copy="dispatcher check --all"' in (await console.get("system")).text


async def test_settings_have_their_sources_and_no_secret(start: Start) -> None:
    console = await start(vercel_token=SecretStr(SECRET), console_label="<b>staging</b>", poll_interval=0.5)
    html = (await console.get("system")).text
    assert SECRET not in html
    text = words(html)
    assert "DISPATCHER_VERCEL_TOKEN" in text
    assert "DISPATCHER_POLL_INTERVAL 500ms argument" in text
    assert "&lt;b&gt;staging&lt;/b&gt; argument" in text
    defaults = [line for line in describe(Settings()) if line.source == "default"]
    assert f"{len(defaults) - 5} with their defaults" in text  # the URL of the database and its schema are given, too
    assert "DISPATCHER_LEASE 1m default" in text


async def test_silence_an_outage_and_an_old_schema_are_said(
    console: Console, trouble: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    with trouble.engine.begin() as connection:
        connection.execute(sa.update(dispatcher).values(seen_at=trouble.now().replace(year=2020), outage=trouble.now()))
    text = words((await console.get("system")).text)
    assert "web-1 silent" in text
    assert "unavailable since" in text
    monkeypatch.setattr(page, "read_system", lambda _: System("sqlite", "pysqlite", None, "0104", -90.0))
    text = words((await console.get("system")).text)
    assert "not made by dispatcher migrate, this program knows 0104" in text
    assert "the database’s is 1m 30s behind" in text


@on_two_databases
async def test_every_page_works_with_an_older_schema(console: Console, trouble: Database) -> None:
    migration.downgrade(trouble, FIRST)
    pages = await console.crawl()
    assert len(pages) >= 10
    assert {url: words(page.text) for url, page in pages.items() if page.status_code != 200} == {}
    banner = f"the database is at schema {FIRST}, this program knows {revisions.newest()}"
    assert [url for url, page in pages.items() if "<main" in page.text and banner not in words(page.text)] == []
    text = words((await console.get("system")).text)
    assert f"Revision {FIRST}, this program knows {revisions.newest()}" in text
    assert "Not known: run dispatcher migrate" in text


async def test_leases_are_shown_by_their_holders_as_the_command_says(
    console: Console, trouble: Database, tmp_path: Path
) -> None:
    now = trouble.now()
    with trouble.engine.begin() as connection:
        for n, (name, left) in enumerate((("web-1", 60), ("web-1", 60), ("web-2", -60), (None, 60))):
            lease = {"lease_token": "t", "leased_by": name, "leased_until": now + timedelta(seconds=left)}
            connection.execute(sa.insert(installation).values(installation_id=f"leased_{n}", due_at=now, **lease))
    html = (await console.get("system")).text
    assert "Dispatcher Held Expired web-2 0 1 web-1 2 0 – 1 0 3 held, 1 expired: their dispatcher died" in words(html)
    assert 'data-copy="dispatcher status"' in html
    dispatcher, url = Terminal(tmp_path), trouble.engine.url.set(drivername="sqlite").render_as_string()
    line = "\nleases        3 held (2 web-1, 1 unknown), 1 expired (1 web-2)\n"
    assert line in dispatcher("status", database_url=url).out
    (row,) = dispatcher("status", "--json", database_url=url).rows
    assert row["leases"]["holders"][0] == {"name": "web-2", "held": 0, "expired": 1}


async def test_none_running_says_how_to_start_one(console: Console) -> None:
    text = words((await console.get("system")).text)
    assert "None is running: start dispatcher run" in text
    assert "Last request none is known" in text


@pytest.mark.parametrize(
    ("ahead", "text"),
    [(0.9, "agree to the second"), (-0.9, "agree to the second"), (7.2, "the database’s is 7s ahead")],
)
def test_clocks_are_compared_to_the_second(ahead: float, text: str) -> None:
    assert clocks(ahead) == text
