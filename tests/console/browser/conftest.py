"""A real browser, headless, which has logged in to a console on a seeded database; a page with any fault fails its test.

Playwright's synchronous API runs an event loop of its own in the test's thread. So the tests are plain functions, the browser ends with
its module, and the console runs in a thread: while the browser runs, no other event loop could run in this thread.
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
from playwright.sync_api import Browser, BrowserContext, Page, Playwright, expect, sync_playwright
from pydantic import SecretStr

from dispatcher.console import proposals, reading
from dispatcher.console.access import choose_access
from dispatcher.console.app import console_app
from dispatcher.console.operations import Operations
from dispatcher.console.reading import open_for_reading
from dispatcher.console.server import SERVER_OPTIONS
from dispatcher.console.writing import open_for_writing
from dispatcher.database.transactions import Database, open_database
from dispatcher.service.http_server import serving
from dispatcher.settings.settings import Settings
from dispatcher.store.dead_letters import replay
from tests.console import seeds
from tests.console.browser.pages import Watch, open_page
from tests.console.conftest import OPERATOR

CHROMIUM = "chromium-headless-shell"
expect.set_options(timeout=30_000)  # milliseconds


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
def playwright() -> Iterator[Playwright]:
    with sync_playwright() as started:
        yield started


@pytest.fixture(scope="module")
def browser(playwright: Playwright) -> Iterator[Browser]:
    with playwright.chromium.launch(executable_path=find_chromium()) as launched:
        yield launched


@pytest.fixture
def watch() -> Watch:
    """Collects what the test's page does wrong."""
    return Watch()


@pytest.fixture
def page(browser: Browser, watch: Watch, serve: "Serve") -> Iterator[Page]:  # noqa: ARG001 (its consoles end after the page)
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

    def let_in(self, context: BrowserContext) -> None:
        """Follows the link that the command prints, but shows no page; the person's name is the one that it proposes, OPERATOR."""
        context.request.get(self.at(f"login?token={self.token}"), max_redirects=0)

    def log_in(self, page: Page, path: str = "") -> None:
        """Opens this page, as somebody who has logged in."""
        self.let_in(page.context)
        page.goto(self.at(path))


Serve = Callable[..., Site]
SiteOf = Callable[[seeds.Seed], Site]


@contextmanager
def serve_console(database: Database, *, may_write: bool = False, **given: Any) -> Iterator[Site]:
    """Runs a console on the database in a thread, with these settings; `may_write` if it is to offer actions."""
    url = SecretStr(database.engine.url.render_as_string(hide_password=False))
    settings, token = Settings(database_url=url, **given), secrets.token_urlsafe(32)
    access = choose_access(settings, token, may_write=may_write)
    loop, stop = asyncio.new_event_loop(), asyncio.Event()
    ready: Future[int] = Future()

    async def run(opened: Database, operations: Operations | None) -> None:
        app = console_app(settings, opened, access, OPERATOR, operations)
        async with serving(app, "127.0.0.1", 0, **SERVER_OPTIONS) as port:
            ready.set_result(port)
            await stop.wait()

    def run_until_stopped() -> None:
        with closing(loop), ExitStack() as stack:
            operations = stack.enter_context(closing(Operations(open_for_writing(settings)))) if may_write else None
            loop.run_until_complete(run(stack.enter_context(closing(open_for_reading(settings))), operations))
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


class Gate:
    """Holds replays before each chunk, and before their end, until the test lets them go on."""

    def __init__(self) -> None:
        self._steps = threading.Semaphore(0)

    def let(self, steps: int = 1) -> None:
        """Lets them take so many steps more."""
        self._steps.release(steps)

    def open(self) -> None:
        """Lets them go on to their end."""
        self.let(1_000_000)

    def hold(self, change: Callable[..., int]) -> Callable[..., int]:
        """Returns the same change, which is held."""

        def held(database: Database, *, progress: Callable[[int], None], **given: Any) -> int:
            def report(done: int) -> None:
                progress(done)
                self._steps.acquire()

            self._steps.acquire()
            return change(database, progress=report, **given)

        return held


@pytest.fixture
def gate(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:  # noqa: ARG001 (it ends before the consoles do)
    """Holds the replays of the consoles."""
    made = Gate()
    monkeypatch.setattr(proposals, "replay", made.hold(replay))
    yield made
    made.open()


@pytest.fixture
def read_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each page is of the moment in which it is opened."""
    monkeypatch.setattr(reading, "SHARED_SECONDS", 0.0)


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
