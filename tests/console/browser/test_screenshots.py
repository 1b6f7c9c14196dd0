"""The screenshots of the docs show the pages as they are. If a page says something else now, take them again:

UPDATE_SCREENSHOTS=1 .venv/bin/python -m pytest tests/console/browser/test_screenshots.py
"""

import os
import re
from pathlib import Path

from playwright.sync_api import Page

from dispatcher.database.transactions import Database
from tests.console.browser.conftest import Serve
from tests.console.browser.pages import HEIGHT
from tests.console.browser.pictures import VIEWS, take, text_of
from tests.console.seeds import troubled

DIRECTORY = Path(__file__).parents[3] / "deploy" / "console"
PAGES = {"now": "", "dead-letters": "dead-letters"}
IN_THE_DOCS = VIEWS[:2]  # light and dark
MAX_BYTES = 150_000
VARIABLE = re.compile(r"\d+(\.\d+)?(ms|[smhd])?( \d+[smh])?")
"""Numbers, times and ages."""


def test_they_show_what_the_pages_say(page: Page, serve: Serve, database: Database) -> None:
    troubled(database)  # now: what the page says of the last minutes depends on it
    site = serve(database, console_label="production")
    for name, path in PAGES.items():
        site.log_in(page, path)
        page.locator(".place").evaluate(
            "one => { one.textContent = 'postgresql://db.internal/app' }"
        )  # a path of this machine
        text = VARIABLE.sub("#", page.locator("body").inner_text())
        if os.environ.get("UPDATE_SCREENSHOTS"):
            DIRECTORY.mkdir(exist_ok=True)
            take(page, DIRECTORY / f"{name}.png", text, IN_THE_DOCS, HEIGHT)
        for scheme, *_ in IN_THE_DOCS:
            picture = DIRECTORY / f"{name}-{scheme}.png"
            assert text_of(picture) == text, "take them again, see above"
            assert picture.stat().st_size <= MAX_BYTES
