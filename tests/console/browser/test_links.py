"""What *Now* says is what the command says, links lead to its rows, also from outside, and hostile texts are only text."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from dispatcher.database.transactions import Database
from dispatcher.inspection.dead_letters import list_dead_letters
from dispatcher.store.dead_letters import Filter
from tests.cli.conftest import Terminal
from tests.console.browser.conftest import Serve, SiteOf
from tests.console.browser.pages import NARROW, Watch, open_page
from tests.console.seeds import HOSTILE, Seed, empty, troubled

AGE = re.compile(r"\b\d+[mh] \d+[sm]")
INERT = (
    HOSTILE[0],
    HOSTILE[1],
    "\\u202eoverridden\\u202c",
    "\\x1b[31mred\\x1b[0m \\x1b]0;owned\\x07 \\x9b2J",
    "xxxxxxx",
)


ALERTED = "dead-letters?view=list&reason=gone"


def test_the_concerns_are_those_of_the_status(
    page: Page, serve: Serve, sow: Callable[[Seed], Database], tmp_path: Path
) -> None:
    site = serve(sow(troubled))
    site.log_in(page)
    (status,) = Terminal(tmp_path)("status", "--json").rows
    concerns = page.locator(".concerns li")
    shown = [concerns.nth(n) for n in range(concerns.count())]
    assert [(one.locator("b").inner_text(), AGE.sub("", one.locator("p").inner_text().lower())) for one in shown] == [
        ("Problem" if one["urgent"] else "Warning", AGE.sub("", one["what"].lower())) for one in status["concerns"]
    ]
    shown[0].get_by_role("link").click()
    numbers = [int(number) for number in page.locator("[data-cause]").all_inner_texts()]
    assert sum(numbers) == 42
    for place, number in enumerate(numbers):
        page.locator("tbody a").nth(place).click()
        assert page.locator("tbody tr").count() == number
        page.go_back()


def test_hostile_texts_are_only_text(page: Page, serve: Serve, sow: Callable[[Seed], Database]) -> None:
    database = sow(troubled)
    site = serve(database)
    letters = list_dead_letters(database, Filter(installation_id="icfg_3", status=400), 12)
    page.set_viewport_size({"width": NARROW, "height": 800})
    site.log_in(page, "dead-letters?view=list&installation=icfg_3")
    listed = page.locator("table").inner_text()
    for text, last in zip(INERT, HOSTILE, strict=True):
        assert text in listed
        letter = next(one for one in letters if last[:1_000] in str(one.last_error))
        page.goto(site.at(f"dead-letters/{letter.id}"))
        assert text in page.locator("pre").inner_text()
        assert page.title().startswith(f"Dead letter {letter.id} · ")
        assert page.evaluate("document.documentElement.scrollWidth") == NARROW


def test_a_link_from_elsewhere_survives_the_login(browser: Browser, site_of: SiteOf) -> None:
    site = site_of(troubled)
    chat = site.url.replace("127.0.0.1", "localhost")  # another site for the browser
    with open_page(browser, Watch(origins={site.url.rstrip("/"), chat.rstrip("/")})) as page:
        for is_known in (False, True):
            page.goto(f"{chat}login")
            page.evaluate("url => document.body.innerHTML = `<a href='${url}'>alert</a>`", site.at(ALERTED))
            page.get_by_text("alert").click()
            if not is_known:
                page.get_by_label("Token").fill(site.token)
                page.get_by_label("Token").press("Enter")
            page.wait_for_url(site.at(ALERTED))
            assert page.locator("tbody tr").count() == 4


@pytest.mark.parametrize("target", ["//localhost:9/", "https://localhost:9/", "/\\localhost:9/", "../..//localhost:9"])
def test_no_login_leads_elsewhere(page: Page, site_of: SiteOf, target: str) -> None:
    site = site_of(empty)
    page.goto(site.at(f"login?next={target}"))
    page.get_by_label("Token").fill(site.token)
    page.get_by_label("Token").press("Enter")
    page.wait_for_url(site.url)
