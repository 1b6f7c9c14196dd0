"""Every page, full, empty and broken: accessible in light and dark, readable on a phone, with the keyboard and without a script."""

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from dispatcher.console import reading
from dispatcher.console.pages import PLACES
from dispatcher.database.transactions import Database
from tests.console.browser.conftest import Serve, SiteOf
from tests.console.browser.pages import HEIGHT, NARROW, WIDE, Watch, axe, open_page
from tests.console.seeds import Seed, empty, troubled

PAGES = (
    "",
    "dead-letters",
    "dead-letters?view=list",
    "dead-letters?installation=icfg_3&show=all",
    "dead-letters?since=yesterday",
    "dead-letters?reason=disabled",
    "dead-letters/1",
    "dead-letters/7",
    "installations",
    "installations?show=paused",
    "installations?show=paused&reason=tired",
    "installations?show=failing&after=failing.-9.icfg_1",
    "installations/icfg_2",
    "installations/icfg_9",
    "explain",
    "explain?id=icfg_3",
    "explain?id=db_of_nobody",
    "requests",
    "requests?outcome=failing&installation=icfg_12",
    "system",
    "operations",
    "operations/aftermath?since=9d&by=anna",
    "operations/aftermath?since=yesterday",
    "no/such/page",
)
"""Each form of each page."""
AGE = re.compile(r"\b\d+(ms|[smhd])( \d+[smh])?\b|\b\d\d:\d\d:\d\d\b")

MAX_STOPS = 25

every_page = pytest.mark.parametrize("path", PAGES)
Tab = tuple[Page, Watch]
Visit = Callable[..., Page]


@pytest.fixture(scope="module")
def tabs(browser: Browser) -> Iterator[Callable[[bool], Tab]]:
    """Opens two tabs for all tests: with a script and, `tabs(False)`, without."""
    with ExitStack() as stack:

        @cache
        def open_tab(has_script: bool) -> Tab:
            watch = Watch(tolerated=["status of 40"])
            return stack.enter_context(open_page(browser, watch, java_script_enabled=has_script)), watch

        yield open_tab


@pytest.fixture
def visit(tabs: Callable[[bool], Tab], site_of: SiteOf) -> Iterator[Visit]:
    """Opens a page of the console on this seed, for tests that only look; fails the test at its end if the page had any fault."""
    used: list[Tab] = []
    site = cache(site_of)

    def open_(seed: Seed, path: str, *, has_script: bool = True) -> Page:
        page, watch = tab = tabs(has_script)
        used.append(tab)
        watch.forget()
        page.set_viewport_size({"width": WIDE, "height": HEIGHT})
        page.emulate_media(color_scheme="light", reduced_motion="no-preference")
        site(seed).log_in(page, path)
        return page

    yield open_
    for page, watch in used:
        page.title()  # after its answer, everything that the page did before has been heard
        watch.check()


@pytest.mark.parametrize(
    ("seed", "path"), [*((troubled, path) for path in PAGES), *((empty, place.path) for place in PLACES)]
)
def test_axe_finds_nothing_in_light_and_dark(visit: Visit, seed: Seed, path: str) -> None:
    axe(visit(seed, path))


@pytest.mark.parametrize("path", ["", "dead-letters", "dead-letters/7"])
def test_axe_finds_nothing_when_the_database_is_away(
    page: Page, watch: Watch, serve: Serve, sow: Callable[[Seed], Database], monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    watch.tolerate("status of 503")
    monkeypatch.setattr(reading, "SHARED_SECONDS", 0.0)
    database = sow(troubled)
    site = serve(database)
    site.log_in(page)  # the last page that it reads
    Path(str(database.engine.url.database)).unlink()
    page.goto(site.at(path))
    assert page.locator("#notice").inner_text().startswith("No data: " if path else "Stale: ")
    assert page.locator("[data-switch=live]").inner_text() == "No answer"
    axe(page)


def test_the_login_is_accessible(page: Page, watch: Watch, site_of: SiteOf) -> None:
    watch.tolerate("status of 403")
    page.goto(site_of(empty).at("login?token=wrong"))
    assert page.locator("[role=alert]").inner_text() == "Wrong token, or one of an earlier start of the console."
    axe(page)


@every_page
def test_only_tables_scroll_sideways(visit: Visit, path: str) -> None:
    """On a phone, and at 200 % of a desktop's width. A table that does can have the focus, which scrolls it."""
    page = visit(troubled, path)
    for width in (NARROW, WIDE // 2):
        page.set_viewport_size({"width": width, "height": HEIGHT})
        assert page.evaluate("document.documentElement.scrollWidth") == width
        assert page.evaluate(SCROLLING) == []


SCROLLING = """() => [...document.querySelectorAll("main *")]
    .filter((one) => one.scrollWidth > one.clientWidth + 1 && /auto|scroll/.test(getComputedStyle(one).overflowX))
    .filter((one) => one.tabIndex < 0 || !one.ariaLabel).map((one) => one.outerHTML.slice(0, 99))"""


@every_page
def test_the_focus_is_visible_on_every_stop_of_the_tab_key(visit: Visit, path: str) -> None:
    page = visit(troubled, path)
    seen = []
    for _ in range(MAX_STOPS):
        page.keyboard.press("Tab")
        seen.append(page.evaluate(FOCUS))
    assert seen[0]["text"] == "Skip to the content"
    assert [one for one in seen if one and not (one["outline"] and one["inside"])] == []


FOCUS = """() => {
    const one = document.activeElement
    if (one == document.body) return null
    const box = one.getBoundingClientRect()
    const inside = box.right > 0 && box.bottom > 0 && box.left < innerWidth && box.top < innerHeight
    return {text: one.textContent.trim(), outline: getComputedStyle(one).outlineStyle != "none", inside}
}"""


@every_page
def test_without_a_script_everything_is_there(visit: Visit, path: str) -> None:
    plain, page = visit(troubled, path, has_script=False), visit(troubled, path)
    texts = [AGE.sub("some time", one.locator("main").inner_text()) for one in (plain, page)]
    assert texts[0] == texts[1]
    assert plain.url == page.url


def test_without_a_script_the_login_the_filter_and_the_search_work(browser: Browser, site_of: SiteOf) -> None:
    site = site_of(troubled)
    with open_page(browser, Watch(), java_script_enabled=False) as plain:
        plain.goto(site.at("dead-letters"))
        plain.get_by_label("Token").fill(site.token)
        plain.get_by_role("button", name="Log in").click()
        plain.get_by_label("Reason").select_option("gone")
        plain.get_by_role("button", name="Filter").click()
        assert plain.locator("[data-cause]").inner_text() == "4"
        plain.locator("tbody a").click()
        assert plain.locator("tbody tr").count() == 4
        plain.get_by_role("searchbox").fill("20")
        plain.get_by_role("searchbox").press("Enter")
        assert plain.url == site.at("dead-letters/20")
        plain.get_by_role("button", name="Log out").click()
        assert plain.url == site.at("login")


def test_nothing_moves_for_people_who_prefer_that(page: Page, site_of: SiteOf) -> None:
    page.emulate_media(reduced_motion="reduce")
    site_of(troubled).log_in(page)
    assert page.evaluate("[...new Set([...document.all].map((one) => getComputedStyle(one).transitionDuration))]") == [
        "0s"
    ]
