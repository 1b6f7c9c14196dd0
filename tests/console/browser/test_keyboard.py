"""The keys: they lead to places, never change anything, are off in inputs, and can be switched off."""

import re

import pytest
from playwright.sync_api import Page

from tests.console.browser.conftest import Site, SiteOf
from tests.console.seeds import troubled


@pytest.fixture
def site(page: Page, site_of: SiteOf) -> Site:
    site = site_of(troubled)
    site.log_in(page)
    return site


def theme(page: Page) -> str:
    return str(page.evaluate("document.documentElement.dataset.theme"))


def test_slash_finds(page: Page, site: Site) -> None:
    page.keyboard.press("/")
    page.keyboard.type("icfg_11")
    page.keyboard.press("Enter")
    page.wait_for_url(site.at("installations/icfg_11"))


def test_g_and_a_letter_go_to_each_place(page: Page, site: Site) -> None:
    places = page.locator("nav a")
    for n in reversed(range(places.count())):
        key, url = places.nth(n).get_attribute("data-key"), places.nth(n).evaluate("one => one.href")
        assert key is not None
        page.keyboard.type(f"g{key}")
        page.wait_for_url(url)
        assert places.nth(n).get_attribute("aria-current") == "page"
    assert page.url == site.url


@pytest.mark.usefixtures("site")
def test_the_question_mark_lists_every_key(page: Page) -> None:
    page.keyboard.press("?")
    help_ = page.get_by_role("dialog", name="Keyboard")
    listed = re.findall(r"^(\S(?: \w)?)$", help_.locator("dl").inner_text(), re.MULTILINE)
    assert {"/", "g n", "g d", "r", "t", "?"} <= set(listed)
    page.keyboard.press("Escape")
    assert help_.is_hidden()


@pytest.mark.usefixtures("site")
def test_t_changes_the_theme_and_a_reload_keeps_it(page: Page) -> None:
    seen = []
    for _ in range(3):
        page.keyboard.press("t")
        seen.append((theme(page), page.evaluate("getComputedStyle(document.documentElement).colorScheme")))
    assert seen == [("light", "light"), ("dark", "dark"), ("system", "light dark")]
    page.keyboard.press("t")
    page.reload()
    assert theme(page) == "light"


def test_in_an_input_keys_are_only_text(page: Page, site: Site) -> None:
    page.goto(site.at("dead-letters"))
    for field in (page.get_by_role("searchbox"), page.get_by_label("Resource", exact=True)):
        field.press_sequentially("gn t?/r")
        assert field.input_value() == "gn t?/r"
    assert (page.url, theme(page)) == (site.at("dead-letters"), "system")
    assert page.get_by_role("dialog").is_hidden()


def test_with_another_key_held_they_are_the_browser_s(page: Page, site: Site) -> None:
    page.keyboard.press("Control+t")
    page.keyboard.press("g")
    page.keyboard.press("Alt+d")
    assert (page.url, theme(page)) == (site.url, "system")


def test_they_can_be_switched_off(page: Page, site: Site) -> None:
    page.keyboard.press("?")
    page.get_by_role("button", name="Shortcuts: on").click()
    page.get_by_role("button", name="Close").click()
    page.reload()
    page.keyboard.type("tgd")
    assert (page.url, theme(page)) == (site.url, "system")
    page.keyboard.press("?")  # so that they can be switched on again
    page.get_by_role("button", name="Shortcuts: off").click()
    page.keyboard.press("Escape")
    page.keyboard.press("t")
    assert theme(page) == "light"
