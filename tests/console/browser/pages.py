"""Pages in a real browser that must be faultless: no error in its console, no exception, nothing refused by the CSP, no request to
another origin, no violation of WCAG 2.2 AA.
"""

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import urlsplit

from axe_playwright_python.base import AXE_SCRIPT, AxeResults
from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Page,
    Request,
    Response,
    TimeoutError,  # noqa: A004 (Playwright's)
    WebError,
)

WCAG_22_AA = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22a", "wcag22aa"]
"""The tags of axe-core's rules for WCAG 2.2, levels A and AA."""
LIKE_OTHER_ROWS = "tbody tr:nth-child(n+9)"
"""Rows of long tables that are not looked at, because each takes axe-core 0.1 s."""
RUN_AXE = "([context, options]) => axe.run(context, options)"
NARROW, WIDE = 360, 1_280
"""Widths in CSS pixels."""
HEIGHT = 800
EVERY = 5_000
"""Milliseconds between two readings of a live page."""
DEADLINE_SECONDS = 60


@dataclass
class Watch:
    """What the pages of a browser's context did wrong."""

    faults: list[str] = field(default_factory=list)
    tolerated: list[str] = field(default_factory=list)
    origins: set[str] = field(default_factory=set)
    """The origins that requests may go to. If there is none, it is that of the first request."""

    def tolerate(self, pattern: str) -> None:
        """Accepts faults that match, such as the error that the browser itself logs for a page with status 503."""
        self.tolerated.append(pattern)

    def forget(self) -> None:
        """Forgets the pages before, which were another test's."""
        self.faults.clear()
        self.origins.clear()

    def check(self) -> None:
        """Raises AssertionError that lists the faults."""
        faults = [one for one in self.faults if not any(re.search(pattern, one) for pattern in self.tolerated)]
        assert not faults, "faults of the page:\n" + "\n".join(faults)

    def watch(self, context: BrowserContext) -> None:
        context.on("console", self._hear)
        context.on("weberror", self._catch)
        context.on("request", self._follow)

    def _hear(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.faults.append(f"console: {message.text}")

    def _catch(self, error: WebError) -> None:
        self.faults.append(f"exception: {error.error}")

    def _follow(self, request: Request) -> None:
        url = urlsplit(request.url)
        origin = f"{url.scheme}://{url.netloc}"
        self.origins = self.origins or {origin}
        if origin not in self.origins:
            self.faults.append(f"another origin: {request.url}")


@contextmanager
def open_page(browser: Browser, watch: Watch, **options: Any) -> Iterator[Page]:
    """A page in a fresh context with these options of Playwright's `new_context`. Its end checks the watch."""
    context = browser.new_context(**{"viewport": {"width": WIDE, "height": HEIGHT}, "locale": "en-GB", **options})
    watch.watch(context)
    try:
        yield context.new_page()
    finally:
        context.close()
    watch.check()


def axe(page: Page) -> None:
    """Raises AssertionError that names each violation of WCAG 2.2 AA that axe-core finds, in light and in dark."""
    page.evaluate(AXE_SCRIPT)
    _run(page, "light", {"type": "tag", "values": WCAG_22_AA})
    _run(page, "dark", {"type": "rule", "values": ["color-contrast"]})


def _run(page: Page, scheme: Literal["light", "dark"], rules: dict[str, object]) -> None:
    page.emulate_media(
        color_scheme=scheme, reduced_motion="reduce"
    )  # or colours would be measured on their way to others
    options = {"runOnly": rules, "resultTypes": ["violations"]}  # a report of what is right would take as long again
    found = AxeResults(page.evaluate(RUN_AXE, [{"exclude": [LIKE_OTHER_ROWS]}, options]))
    assert not found.violations_count, found.generate_report()


def stop_clock(page: Page) -> None:
    """Stops the page's clock. From now on a live page reads again only when the test lets time pass."""
    page.clock.install()
    page.clock.pause_at(time.time() + 1)


def read_again(page: Page) -> Response:
    """Lets five seconds pass by the page's clock, which has been stopped, and waits until the page has its answer."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while True:
        try:
            with page.expect_response(lambda answer: answer.request.resource_type == "fetch", timeout=EVERY) as answer:
                page.clock.run_for(EVERY)
        except TimeoutError:  # it was still busy with the answer before
            if time.monotonic() > deadline:
                raise
        else:
            return answer.value


def read_until(page: Page, text: str) -> None:
    """Lets the page read again until it says this, however its lines are broken."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while text not in (words := " ".join(page.locator("main").inner_text().split())):
        assert time.monotonic() < deadline, words
        read_again(page)


def confirm(page: Page, why: str, typed: str | None = None) -> None:
    """Fills in the form of a plan and sends it."""
    page.get_by_label("Why").fill(why)
    if typed is not None:
        page.get_by_label("Type").fill(typed)
    page.locator("main form .primary").click()
