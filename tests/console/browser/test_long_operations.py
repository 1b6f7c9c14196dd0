"""Operations of many chunks: the page is there before they end, shows how far they are, and stops them; again finishes them."""

from collections.abc import Callable

import pytest
import sqlalchemy as sa
from playwright.sync_api import Page, expect

from dispatcher.database.transactions import Database
from dispatcher.outbox.tables import dead_letter, outbox
from tests.console.browser.conftest import Gate, Serve
from tests.console.browser.pages import confirm, read_until, stop_clock
from tests.console.seeds import Seed, empty
from tests.console.test_actions import copy_letters

pytestmark = pytest.mark.usefixtures("read_each_time")
LETTERS = 20_000
PLAN = "actions/replay?reason=gone"


def replayed(database: Database) -> tuple[int, int]:
    """The dead letters that are resolved, and the different resources in the outbox."""
    with database.read() as connection:
        resolved = sa.select(sa.func.count()).where(dead_letter.c.resolved_at.is_not(None))
        resources = sa.select(sa.func.count(outbox.c.resource_id.distinct()))
        return connection.execute(resolved).scalar_one(), connection.execute(resources).scalar_one()


def test_twenty_thousand_letters_are_followed_stopped_and_finished(
    page: Page, serve: Serve, sow: Callable[[Seed], Database], gate: Gate
) -> None:
    database = sow(empty)
    copy_letters(database, LETTERS)
    stop_clock(page)
    site = serve(database, may_write=True)
    site.log_in(page, PLAN)
    for figure in ("20,000", "5h 33m"):
        expect(page.locator(".figures")).to_contain_text(figure)
    confirm(page, "imported")
    page.wait_for_url(site.at("operations/1"))  # nothing has been done yet: the gate is shut
    expect(page.locator("main")).to_contain_text("0 of 20,000")
    for done in ("500 of 20,000", "1,000 of 20,000"):
        gate.let()
        read_until(page, done)
    stop = page.get_by_role("button", name="Stop after this chunk")
    stop.focus()
    page.keyboard.press("Enter")
    expect(page.locator("h1 .tag")).to_have_text("stopping")
    stop.focus()
    gate.let()
    read_until(page, "1,500 of 20,000 dead letters: stopped. The rest is as it was; doing the same again finishes it.")
    expect(page.locator("main")).to_be_focused()  # the button has gone
    assert replayed(database) == (1_500, 1_500)
    page.goto(site.at(PLAN))
    confirm(page, "imported")
    gate.open()
    read_until(page, "Replay 18,500 dead letters done")
    assert replayed(database) == (LETTERS, LETTERS)
    page.goto(site.at("operations"))
    expect(page.get_by_label("Operations of this console").locator("tbody .tag")).to_have_text(["done", "stopped"])
