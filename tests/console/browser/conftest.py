"""A real browser, headless, which has logged in to a console on a seeded database; a page with any fault fails its test.

Playwright's synchronous API runs an event loop of its own in the test's thread. So the tests are plain functions, the browser ends with its
module, and the console runs in a thread: while the browser runs, no other event loop could run in this thread.
"""

import asyncio
import secrets
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import pytest
from playwright.sync_api import Browser, Page, sync_playwright
from pydantic import SecretStr

from dispatcher.console.access import choose_access
from dispatcher.console.app import console_app
from dispatcher.console.reading import open_for_reading
from dispatcher.console.server import SERVER_OPTIONS
from dispatcher.database.transactions import Database, open_database
from dispatcher.service.http_server import serving
from dispatcher.settings.settings import Settings
from tests.console import seeds
from tests.console.browser.pages import Watch, open_page

CHROMIUM = "chromium-headless-shell"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Runs all tests with a browser in one process, so that one browser at a time is enough."""
    for item in items:
        if "browser" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.gate)
            item.add_marker(pytest.mark.xdist_group("console"))


def find_chromium() -> str:
    """Returns the path of Debian's Chromium; without it, the test fails."""
    path = shutil.which(CHROMIUM)
    if path is None:
        pytest.fail(f"{CHROMIUM} is not installed (Debian: apt-get install {CHROMIUM})", pytrace=False)
    return path


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright, playwright.chromium.launch(executable_path=find_chromium()) as launched:
        yield launched


@pytest.fixture
def watch() -> Watch:
    """Collects what the test's page does wrong."""
    return Watch()


@pytest.fixture
def page(browser: Browser, watch: Watch) -> Iterator[Page]:
    """A page that fails the test at its end if it logged an error, raised an exception, violated the CSP or left its origin."""
    with open_page(browser, watch) as opened:
        yield opened


@dataclass(frozen=True)
class Site:
    """A running console."""

    url: str
    """With a slash at its end."""
    token: str

    def at(self, path: str) -> str:
        """The absolute URL of a page."""
        return urljoin(self.url, path)

    def log_in(self, page: Page, path: str = "") -> None:
        """Opens the link that the command prints, then this page."""
        page.goto(self.at(f"login?token={self.token}"))
        if path:
            page.goto(self.at(path))


Serve = Callable[..., Site]
SiteOf = Callable[[seeds.Seed], Site]


@contextmanager
def serve_console(database: Database, **given: Any) -> Iterator[Site]:
    """Runs a console on the database in a thread, with these settings."""
    url = SecretStr(database.engine.url.render_as_string(hide_password=False))
    settings, token = Settings(database_url=url, **given), secrets.token_urlsafe(32)
    access = choose_access(settings, token, may_write=False)
    loop, stop = asyncio.new_event_loop(), asyncio.Event()
    ready: Future[int] = Future()

    async def run(opened: Database) -> None:
        async with serving(console_app(settings, opened, access, ""), "127.0.0.1", 0, **SERVER_OPTIONS) as port:
            ready.set_result(port)
            await stop.wait()

    def run_until_stopped() -> None:
        with closing(loop), closing(open_for_reading(settings)) as opened:
            loop.run_until_complete(run(opened))
            loop.run_until_complete(loop.shutdown_default_executor())

    thread = threading.Thread(target=run_until_stopped)
    thread.start()
    try:
        yield Site(f"http://127.0.0.1:{ready.result(30)}/", token)
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Starts consoles, which end with the test: `serve(sow(troubled), console_label="staging")`."""
    with ExitStack() as stack:
        yield lambda database, **settings: stack.enter_context(serve_console(database, **settings))


@pytest.fixture(scope="module")
def shared(seeded: Callable[[seeds.Seed], Path]) -> Iterator[Callable[[seeds.Seed], tuple[Database, Site]]]:
    """Starts one console for each seed."""
    with ExitStack() as stack:

        @cache
        def start(seed: seeds.Seed) -> tuple[Database, Site]:
            database = stack.enter_context(closing(open_database(f"sqlite:///{seeded(seed)}")))
            return database, stack.enter_context(serve_console(database))

        yield start


@pytest.fixture
def site_of(shared: Callable[[seeds.Seed], tuple[Database, Site]]) -> SiteOf:
    """Returns the console on the database with this seed, for tests that only look: `site_of(troubled)`."""

    def fresh(seed: seeds.Seed) -> Site:
        database, site = shared(seed)
        seeds.refresh(database)
        return site

    return fresh
