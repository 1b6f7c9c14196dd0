"""Times: relative, with the exact one as their title; UTC or local, as the person prefers; by the database's clock."""

import re
from datetime import datetime, timedelta

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.console.browser.conftest import SiteOf
from tests.console.browser.pages import Watch, open_page
from tests.console.seeds import troubled

DIED = "tbody tr:first-child time"


def test_a_time_is_relative_and_its_title_exact(page: Page, site_of: SiteOf) -> None:
    site_of(troubled).log_in(page, "dead-letters?view=list")
    time = page.locator(DIED)
    at = datetime.fromisoformat(str(time.get_attribute("datetime")))
    assert re.fullmatch(r"\d+m( \d+s)? ago", time.inner_text())
    assert time.get_attribute("title") == f"{at:%Y-%m-%d %H:%M:%S} UTC"


def test_local_times_are_remembered(browser: Browser, site_of: SiteOf) -> None:
    site = site_of(troubled)
    with open_page(browser, Watch(), timezone_id="Asia/Tokyo") as page:
        site.log_in(page, "dead-letters?view=list")
        page.get_by_role("button", name="Times").click()
        page.reload()
        time = page.locator(DIED)
        at = datetime.fromisoformat(str(time.get_attribute("datetime"))) + timedelta(hours=9)
        assert time.get_attribute("title") == f"{at:%Y-%m-%d %H:%M:%S} local"
        assert page.get_by_role("button", name="Times").inner_text() == "Local"
        page.goto(site.at("dead-letters/20"))
        assert page.locator("h2 .zone").first.inner_text() == "local"


@pytest.mark.parametrize("off", [timedelta(hours=1), timedelta(hours=-1)])
def test_a_clock_that_is_off_is_named_and_made_up_for(page: Page, site_of: SiteOf, off: timedelta) -> None:
    site = site_of(troubled)
    page.clock.install(time=datetime.now().astimezone() + off)
    site.log_in(page)
    expect(page.locator("#skew")).to_contain_text(re.compile("this browser’s clock is off by (1h|59m)"))
    assert re.fullmatch(r"(\d+m )?\d+[ms] ago", page.locator("main .verdict time").first.inner_text())


def test_a_clock_that_is_right_is_not_mentioned(page: Page, site_of: SiteOf) -> None:
    site_of(troubled).log_in(page)
    assert page.locator("#skew").inner_text() == ""
