"""After an action, the filter and the place in the list are as before."""

from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from dispatcher.database.transactions import Database
from tests.console.browser.conftest import Serve, Site
from tests.console.browser.pages import Watch, confirm
from tests.console.seeds import Seed, troubled


@pytest.fixture
def site(page: Page, serve: Serve, sow: Callable[[Seed], Database]) -> Site:
    site = serve(sow(troubled), may_write=True)
    site.let_in(page.context)
    return site


def act(page: Page, name: str, typed: str | None = None) -> None:
    """Looks at the plan twice, carries it out, and goes back."""
    began = page.url
    page.get_by_role("link", name=f"{name}…").click()
    page.get_by_role("link", name="Cancel").click()
    assert page.url == began
    page.get_by_role("link", name=f"{name}…").click()
    confirm(page, "test data", typed)
    page.wait_for_url("**/operations/*")
    page.get_by_role("link", name="Back to where it began").click()
    assert page.url == began


@pytest.mark.parametrize(
    "path",
    [
        "dead-letters?reason=rejected",
        "dead-letters?view=list&installation=icfg_3&since=90d",
        "dead-letters?view=list&limit=500&show=all",
        "dead-letters?view=list&before=30",
    ],
)
@pytest.mark.parametrize("action", ["Replay", "Discard"])
def test_to_the_same_part_of_the_same_list(page: Page, site: Site, path: str, action: str) -> None:
    page.goto(site.at(path))
    act(page, action)


def test_with_another_number_of_them(page: Page, site: Site) -> None:
    page.goto(site.at("dead-letters?reason=gone"))
    page.get_by_role("link", name="Replay…").click()
    page.get_by_role("link", name="the oldest 1", exact=True).click()
    expect(page.locator("h1")).to_have_text("Replay 1 dead letter?")
    page.get_by_role("link", name="Back").click()
    assert page.url == site.at("dead-letters?reason=gone")


def test_from_one_dead_letter_to_its_row(page: Page, site: Site) -> None:
    path = "dead-letters?view=list&before=30"
    page.goto(site.at(path))
    page.get_by_role("link", name="12", exact=True).click()
    page.get_by_role("link", name="Dead letters", exact=True).last.click()
    assert page.url == site.at(f"{path}#letter-12")
    expect(page.locator("#letter-12")).to_be_in_viewport()
    page.get_by_role("link", name="12", exact=True).click()
    act(page, "Discard")
    page.get_by_role("link", name="Dead letters", exact=True).last.click()
    expect(page.locator("#letter-12")).to_have_count(0)
    assert page.url == site.at(f"{path}#letter-12")


@pytest.mark.parametrize(
    ("path", "id_", "action", "typed"),
    [
        ("installations?show=paused", "icfg_7", "Resume", None),
        ("installations?show=failing&prefix=icfg_1", "icfg_12", "Pause", None),
        ("installations?show=paused", "icfg_9", "Purge", "icfg_9"),
    ],
)
def test_from_an_installation_to_the_same_view(
    page: Page, watch: Watch, site: Site, path: str, id_: str, action: str, typed: str | None
) -> None:
    watch.tolerate("status of 404")  # a purged one is not known any more
    page.goto(site.at(path))
    page.get_by_role("link", name=id_, exact=True).click()
    act(page, action, typed)
    page.get_by_role("link", name="Installations", exact=True).last.click()
    assert page.url.partition("#")[0] == site.at(path)
