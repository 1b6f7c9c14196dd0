"""Plans: they stay as they were shown, and only what they have shown is done, once, and by who has read it."""

import re
from collections.abc import Callable

import pytest
import sqlalchemy as sa
from playwright.sync_api import Browser, Page, expect

from dispatcher.database.transactions import Database
from dispatcher.outbox.tables import dead_letter, outbox
from dispatcher.policy.decision import DeadLetterReason
from dispatcher.store.dead_letters import Filter, Signature, discard
from tests.console.browser.conftest import Gate, Serve, Site
from tests.console.browser.pages import Watch, axe, confirm, open_page, read_until, stop_clock
from tests.console.seeds import Seed, bury, newest, troubled
from tests.console.test_actions import copy_letters, resolved

pytestmark = pytest.mark.usefixtures("read_each_time")
PLAN = "actions/replay?reason=gone"
WHY = "linked at Vercel"


@pytest.fixture
def database(sow: Callable[[Seed], Database]) -> Database:
    return sow(troubled)


@pytest.fixture
def site(page: Page, serve: Serve, database: Database) -> Site:
    stop_clock(page)
    site = serve(database, may_write=True)
    site.let_in(page.context)
    return site


def die(database: Database) -> None:
    """One more dead letter, which the plan would take."""
    bury(database, "icfg_10", {"db_new": "resource not found"}, DeadLetterReason.GONE, 404)


def published(database: Database) -> list[str]:
    """The resources with an event in the outbox."""
    with database.read() as connection:
        return sorted(connection.execute(sa.select(outbox.c.resource_id)).scalars())


def unresolved(database: Database) -> int:
    with database.read() as connection:
        waiting = sa.select(sa.func.count()).where(dead_letter.c.resolved_at.is_(None))
        return int(connection.execute(waiting).scalar_one())


def test_axe_finds_nothing_on_the_pages_of_an_action(
    page: Page, watch: Watch, serve: Serve, database: Database
) -> None:
    watch.tolerate("status of 400")
    serve(database, may_write=True).log_in(page, "actions/purge?installation=icfg_9")
    axe(page)
    confirm(page, " ", "icfg_9")
    expect(page.locator("[aria-invalid]")).to_have_count(1)
    axe(page)
    confirm(page, WHY, "icfg_9")
    page.wait_for_url("**/operations/*")
    axe(page)


def test_a_minute_of_updates_leaves_a_plan_alone(page: Page, site: Site, database: Database) -> None:
    page.goto(site.at(PLAN))
    why = page.get_by_label("Why")
    why.press_sequentially("linked at")
    shown, requests = page.locator("main").inner_html(), list[str]()
    page.on("request", lambda request: requests.append(request.url))
    die(database)
    page.clock.run_for(60_000)
    assert (page.locator("main").inner_html(), requests) == (shown, [])
    assert why.input_value() == "linked at"
    page.goto(site.at("operations"))
    expect(page.get_by_text("None yet.")).to_be_visible()


def test_what_dies_after_the_plan_is_not_taken(page: Page, site: Site, database: Database) -> None:
    page.goto(site.at(PLAN))
    expect(page.locator("h1")).to_have_text("Replay 4 dead letters?")
    die(database)
    confirm(page, WHY)
    read_until(page, "Replay 4 dead letters done")
    assert len(published(database)) == 4
    assert "db_new" not in published(database)
    page.get_by_role("link", name="Back to where it began").click()
    expect(page.locator("[data-cause]")).to_have_text(["31", "7", "1"])


def test_what_was_resolved_after_the_plan_is_reported(page: Page, watch: Watch, site: Site, database: Database) -> None:
    watch.tolerate("status of 409")
    page.goto(site.at(PLAN))
    last = newest(database)
    discard(database, Filter(resource_id="db_gone_1"), last, Signature("ben", "deleted"), lambda _: None)
    confirm(page, WHY)
    expect(page.get_by_role("alert")).to_have_text(
        "Nothing was changed: 1 of 4 were resolved meanwhile, which leaves 3."
    )
    confirm(page, WHY)
    read_until(page, "Replay 3 dead letters done")
    assert len(published(database)) == 3


def test_two_people_who_confirm_the_same_plan_replay_nothing_twice(
    page: Page, browser: Browser, site: Site, database: Database, gate: Gate
) -> None:
    with open_page(browser, Watch()) as other:
        stop_clock(other)
        site.let_in(other.context)
        for one in (page, other):
            one.goto(site.at(PLAN))
        for one in (page, other):
            confirm(one, WHY)
            one.wait_for_url("**/operations/*")
        gate.open()
        for one in (page, other):
            read_until(one, "done")
        shown = sorted(one.locator("progress").get_attribute("value") or "" for one in (page, other))
        assert shown == ["0", "4"]
        late = page if page.locator("progress").get_attribute("value") == "0" else other
        expect(late.locator("main")).to_contain_text("0 of 4 dead letters: the others were resolved meanwhile")
    assert len(published(database)) == len(set(published(database))) == 4


def test_a_hundred_and_one_are_discarded_with_a_reason_and_their_number(
    page: Page, watch: Watch, site: Site, database: Database
) -> None:
    watch.tolerate("status of 400")
    copy_letters(database, 101, "unauthorized")
    page.goto(site.at("actions/discard?reason=unauthorized"))
    page.get_by_role("button", name="Discard 101 dead letters").click()  # refused by the browser itself
    assert page.evaluate("document.activeElement.matches('[name=note]:invalid')")
    confirm(page, " ", "100")
    for label, error in (("Why", "Why is missing"), ("Type", "Type 101 exactly, to confirm")):
        field = page.get_by_label(label)
        expect(field).to_have_attribute("aria-invalid", "true")
        expect(field).to_have_accessible_description(re.compile(error))
    expect(page.get_by_label("Why")).to_be_focused()
    assert unresolved(database) == 143
    confirm(page, WHY, "101")
    read_until(page, "101 of 101")
    assert unresolved(database) == 42


def test_an_installation_is_purged_with_a_reason_and_its_id(
    page: Page, watch: Watch, site: Site, database: Database
) -> None:
    watch.tolerate("status of 400")
    page.goto(site.at("actions/purge?installation=icfg_9"))
    before = resolved(database)
    for why, typed in ((" ", "icfg_9"), (WHY, "icfg_90")):
        confirm(page, why, typed)
        expect(page.locator("[aria-invalid]")).to_have_count(1)
    assert resolved(database) == before
    confirm(page, WHY, "icfg_9")
    read_until(page, "Purge icfg_9 done")
    assert len(resolved(database)) == len(before) + 12


@pytest.mark.parametrize("path", [PLAN, "actions/discard?reason=gone", "actions/pause?installation=icfg_1"])
def test_without_a_reason_nothing_is_done(page: Page, watch: Watch, site: Site, path: str) -> None:
    watch.tolerate("status of 400")
    page.goto(site.at(path))
    confirm(page, " ")
    expect(page.locator("[aria-invalid]")).to_have_attribute("name", "note")
    expect(page.locator("[aria-invalid]")).to_be_focused()
    page.goto(site.at("operations"))
    expect(page.get_by_text("None yet.")).to_be_visible()
