"""Live updates: they bring what is new, disturb nobody, and say when there is no answer. The browser's clock is the test's."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, Route, expect

from dispatcher.database.transactions import Database
from dispatcher.policy.decision import DeadLetterReason
from dispatcher.store.dead_letters import Filter, Signature, discard
from tests.console.browser.conftest import Serve, Site
from tests.console.browser.pages import EVERY, Watch, read_again, stop_clock
from tests.console.seeds import Seed, bury, empty, troubled
from tests.console.steps import announce
from tests.processes.conftest import wait_until

pytestmark = pytest.mark.usefixtures("read_each_time")

BANNER_MS = 10_000
"""By then a page says that it is stale."""


@pytest.fixture
def database(sow: Callable[[Seed], Database]) -> Database:
    return sow(troubled)


@pytest.fixture
def site(page: Page, serve: Serve, database: Database) -> Site:
    stop_clock(page)
    site = serve(database)
    site.let_in(page.context)
    return site


def die(database: Database) -> None:
    """One more event becomes a dead letter."""
    bury(database, "icfg_11", {"db_new": "unknown product"}, DeadLetterReason.REJECTED, 422)


LIST = "dead-letters?view=list"


def test_what_is_new_appears(page: Page, site: Site, database: Database) -> None:
    page.goto(site.at("dead-letters?view=list&installation=icfg_11"))
    expect(page.locator("tbody tr")).to_have_count(7)
    die(database)
    read_again(page)
    expect(page.locator("tbody tr")).to_have_count(8)
    expect(page.locator("nav .count")).to_have_text("43")


def test_the_title_has_the_verdict(page: Page, serve: Serve, sow: Callable[[Seed], Database]) -> None:
    stop_clock(page)
    database = sow(empty)
    serve(database).log_in(page)
    assert page.title() == "Nothing needs you · dispatcher"
    die(database)
    read_again(page)
    expect(page).to_have_title(re.compile("^2 things need you.* · dispatcher$"))


def test_a_page_without_news_is_not_sent_again(page: Page, site: Site) -> None:
    page.goto(site.at("dead-letters"))
    assert read_again(page).status == 200
    assert read_again(page).status == 304


def test_an_update_keeps_what_is_open_and_where_the_focus_is(page: Page, site: Site, database: Database) -> None:
    def add_details(route: Route) -> None:
        answer = route.fetch()
        details = '<details id="more"><summary>More</summary><p>of it</p></details></main>'
        route.fulfill(response=answer, body=answer.text().replace("</main>", details))

    page.route(site.at(LIST), add_details)
    page.goto(site.at(LIST))
    page.get_by_text("More").click()
    page.get_by_role("link", name="20", exact=True).focus()
    die(database)
    read_again(page)
    expect(page.locator("tbody tr")).to_have_count(43)
    assert page.get_by_text("of it").is_visible()
    assert page.evaluate("document.activeElement.textContent") == "20"


def test_attempts_that_were_unfolded_stay_so(page: Page, site: Site, database: Database) -> None:
    page.goto(site.at("explain?id=db_0&installation=icfg_12"))
    folded = page.locator("details").first
    folded.locator("summary").click()
    entries = page.locator(".story tr").count()
    announce(database, "icfg_12", "db_0")
    read_again(page)
    expect(page.locator(".story tr").nth(entries)).to_be_visible()
    assert folded.get_attribute("open") is not None
    assert folded.locator("li").first.is_visible()


def test_the_focus_stays_with_its_cause_when_another_one_overtakes_it(
    page: Page, site: Site, database: Database
) -> None:
    page.goto(site.at("dead-letters"))
    page.get_by_role("link", name="unknown product").focus()
    bury(database, "icfg_3", {f"db_{n}": "resource not found" for n in range(9)}, DeadLetterReason.GONE, 404)
    read_again(page)
    expect(page.locator("[data-cause]")).to_have_text(["31", "13", "7"])
    assert page.evaluate("document.activeElement.textContent").startswith("unknown product")


def test_when_what_has_the_focus_goes_away_it_is_seen_on_the_content(
    page: Page, site: Site, database: Database
) -> None:
    page.goto(site.at(LIST))
    page.keyboard.press("/")  # from here on, the keyboard has the focus
    page.get_by_role("link", name="20", exact=True).focus()
    discard(database, Filter([20]), 20, Signature("ben", "test data"), lambda _: None)
    read_again(page)
    expect(page.locator("main")).to_be_focused()
    assert page.locator("main").evaluate("one => getComputedStyle(one).outlineStyle") == "solid"


def test_an_answer_that_arrives_late_disturbs_nobody(page: Page, site: Site, database: Database) -> None:
    def select_meanwhile(route: Route) -> None:
        answer = route.fetch()
        page.evaluate(SELECT)
        route.fulfill(response=answer)

    page.goto(site.at(LIST))
    page.evaluate(COUNT_TEXTS)
    die(database)
    page.route(site.at(LIST), select_meanwhile)
    read_again(page)
    wait_until(lambda: page.evaluate("window.texts"))  # it has decided about the late answer
    page.unroute(site.at(LIST))
    page.evaluate("getSelection().empty()")
    assert read_again(page).status == 200  # as if there had been no other before
    expect(page.locator("tbody tr")).to_have_count(43)


COUNT_TEXTS = """() => {
    window.texts = 0;
    const text = Response.prototype.text;
    Response.prototype.text = async function () {
        const read = await text.call(this);
        window.texts += 1;
        return read;
    };
}"""
SELECT = "getSelection().selectAllChildren(document.querySelector('tbody tr'))"
TYPE = "Resource"


@pytest.mark.parametrize("held", ["selection", "filter", "off", "help"])
def test_a_minute_of_updates_disturbs_nobody(page: Page, site: Site, database: Database, held: str) -> None:
    page.goto(site.at(LIST))
    if held == "selection":
        page.evaluate(SELECT)
    elif held == "filter":
        page.get_by_label(TYPE, exact=True).press_sequentially("db_pl")
    elif held == "off":
        page.get_by_role("button", name="Live").click()
    else:
        page.keyboard.press("?")
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    die(database)
    page.clock.run_for(60_000)
    assert requests == []
    assert page.locator("[data-switch=live]").inner_text() == {
        "selection": "Paused: text is selected",
        "filter": "Paused: a form is being filled",
        "off": "Off",
        "help": "Paused",
    }.get(held)
    if held == "selection":
        assert page.evaluate("String(getSelection())").startswith("48")
    if held == "filter":
        assert page.get_by_label(TYPE, exact=True).input_value() == "db_pl"


HIDE = """hidden => {
    Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
    document.dispatchEvent(new Event("visibilitychange"));
}"""


def test_a_hidden_tab_asks_for_nothing_and_is_renewed_when_it_is_seen_again(
    page: Page, site: Site, database: Database
) -> None:
    page.goto(site.at("dead-letters?view=list&installation=icfg_11"))
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.evaluate(HIDE, True)
    die(database)
    page.clock.run_for(60_000)
    assert requests == []
    page.evaluate(HIDE, False)
    expect(page.locator("tbody tr")).to_have_count(8)
    assert len(requests) == 1


def test_after_a_quarter_of_an_hour_without_a_touch_the_database_is_spared(page: Page, site: Site) -> None:
    page.goto(site.url)
    page.clock.fast_forward(16 * 60_000)
    page.clock.run_for(1_000)
    live = page.locator("[data-switch=live]")
    expect(live).to_have_text("Paused to spare your database")
    page.mouse.move(300, 300)
    read_again(page)
    page.clock.run_for(1_000)
    expect(live).to_have_text("Live · 5 s")


@pytest.mark.parametrize("path", ["", "dead-letters"])
def test_a_page_says_that_it_is_stale_and_recovers_by_itself(
    page: Page, watch: Watch, site: Site, database: Database, path: str
) -> None:
    watch.tolerate("status of 503")
    page.goto(site.at(path))
    rows = page.locator("main tbody tr").count()
    file = Path(str(database.engine.url.database))
    file.rename(file.with_suffix(".away"))
    page.clock.run_for(BANNER_MS)
    expect(page.locator("#notice")).to_contain_text("there is no database file")
    expect(page.locator("main.stale tbody tr")).to_have_count(rows)
    expect(page.locator("[data-switch=live]")).to_have_text("No answer")
    file.with_suffix(".away").rename(file)
    page.clock.run_for(BANNER_MS)
    expect(page.locator("#notice")).to_be_empty()
    expect(page.locator("main:not(.stale) tbody tr")).to_have_count(rows)
    page.clock.run_for(1_000)
    expect(page.locator("[data-switch=live]")).to_have_text("Live · 5 s")


def test_when_the_session_is_over_the_login_leads_back(page: Page, site: Site) -> None:
    page.goto(site.at("dead-letters?reason=gone"))
    page.context.clear_cookies()
    page.clock.run_for(EVERY)
    page.get_by_label("Token").fill(site.token)
    page.get_by_label("Token").press("Enter")
    page.wait_for_url(site.at("dead-letters?reason=gone"))
