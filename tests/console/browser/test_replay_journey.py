"""From a cause to its delivery: a person replays the dead letters, and a dispatcher delivers them to the sandbox."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect
from sqlalchemy import Engine
from structlog.testing import capture_logs
from typing_extensions import override

from dispatcher.database.transactions import Database
from dispatcher.policy.decision import DeadLetterReason
from tests.console.browser.conftest import Serve, Site
from tests.console.browser.pages import read_again, read_until, stop_clock
from tests.console.browser.test_every_page import FOCUS
from tests.console.conftest import OPERATOR
from tests.console.seeds import bury
from tests.processes.conftest import Stage

pytestmark = pytest.mark.usefixtures("read_each_time")
WHY = "the plan exists now"
MAX_STOPS = 60


class Mouse:
    """Does it with the mouse."""

    def __init__(self, page: Page) -> None:
        self.page = page

    def go_to_dead_letters(self) -> None:
        self.page.locator("nav").get_by_role("link", name="Dead letters").click()

    def press(self, control: Locator) -> None:
        """Follows a link, or presses a button."""
        control.click()

    def write(self, field: Locator, text: str) -> None:
        field.fill(text)

    def rest_on(self, control: Locator) -> None:
        """Stays there while the page changes."""
        control.hover()

    def is_on(self, control: Locator) -> bool:
        return control.is_visible()


class Keyboard(Mouse):
    """Does it with the keyboard alone; the focus can be seen at each stop."""

    @override
    def go_to_dead_letters(self) -> None:
        self.page.keyboard.type("gd")

    @override
    def press(self, control: Locator) -> None:
        self.rest_on(control)
        self.page.keyboard.press("Enter")

    @override
    def write(self, field: Locator, text: str) -> None:
        self.rest_on(field)
        self.page.keyboard.type(text)

    @override
    def rest_on(self, control: Locator) -> None:
        expect(control).to_be_visible()
        for _ in range(MAX_STOPS):
            self.page.keyboard.press("Tab")
            focus = self.page.evaluate(FOCUS)
            assert focus is None or (focus["outline"] and focus["inside"]), focus
            if self.is_on(control):
                return
        pytest.fail(f"the Tab key does not lead to {control}")

    @override
    def is_on(self, control: Locator) -> bool:
        return bool(control.evaluate("one => one === document.activeElement"))


@pytest.fixture
def stage(tmp_path: Path, database: Database, plain_engine: Engine) -> Iterator[Stage]:
    """A sandbox, and dead letters of two causes."""
    made = Stage(tmp_path, database, plain_engine)
    try:
        made.start_sandbox("60/60s", before_it_answers=lambda: die(database))
        yield made
    finally:
        made.end()


def die(database: Database) -> None:
    plans = {f"db_{n}": f'billing plan "plan_{n}" is unknown' for n in (1, 2, 3)}
    bury(database, "icfg_1", plans, DeadLetterReason.REJECTED, 400)
    bury(database, "icfg_1", {"db_4": "unknown product"}, DeadLetterReason.REJECTED, 422)


@pytest.fixture
def site(page: Page, serve: Serve, database: Database) -> Site:
    stop_clock(page)
    return serve(database, may_write=True)


@pytest.mark.parametrize("kind", [Mouse, Keyboard])
def test_a_cause_is_replayed_and_delivered(page: Page, stage: Stage, site: Site, kind: type[Mouse]) -> None:
    hand, main = kind(page), page.locator("main")
    site.log_in(page)
    hand.go_to_dead_letters()
    expect(page.locator("[data-cause]")).to_have_text(["3", "1"])
    hand.press(page.get_by_role("link", name='billing plan "plan_'))
    expect(page.locator("tbody tr")).to_have_count(3)
    list_ = page.url
    hand.press(page.get_by_role("link", name="Replay…"))
    expect(page.locator("h1")).to_have_text("Replay 3 dead letters?")
    expect(page.locator(".figure")).to_contain_text(["Requests3", "Busiest installation3", "Timeat once", "Left out0"])
    hand.write(page.get_by_label("Why"), WHY)
    with capture_logs() as logs:
        hand.press(page.get_by_role("button", name="Replay 3 dead letters"))
        page.wait_for_url(site.at("operations/1"))
        read_until(page, "3 of 3")
        read_until(page, "Delivered 0 resources or installations Waiting 3 to be sent Died again 0")
    back = page.get_by_role("link", name="Back to where it began")
    hand.rest_on(back)
    drained = stage.run("drain")
    assert drained.returncode == 0, drained.stderr
    read_until(page, "Delivered 3 resources or installations Waiting 0 to be sent Died again 0")
    read_again(page)
    assert hand.is_on(back)
    assert sorted(one["body"]["event"]["resourceId"] for one in stage.requests()) == ["db_1", "db_2", "db_3"]
    signed = "SELECT resource_id, resolution, resolved_by, note FROM vercel_dead_letter ORDER BY resource_id"
    replayed = [(f"db_{n}", "replayed", OPERATOR, WHY) for n in (1, 2, 3)]
    assert stage.query(signed) == [*replayed, ("db_4", None, None, None)]
    lines = [line for line in logs if line["event"] == "operator action"]
    assert [(line["state"], line.get("done")) for line in lines] == [("waiting", None), ("done", 3)]
    for line in lines:
        assert (line["action"], line["by"], line["note"], line["dead_letters"]) == ("replay", OPERATOR, WHY, 3)
        assert line["filter"].startswith("--reason rejected --status 400 --error ")
    hand.press(back)
    page.wait_for_url(list_)
    expect(main).to_contain_text("None matches")
