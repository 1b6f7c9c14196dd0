"""The guards of the browser's tests: each notices what it is there for, on pages of a real server."""

import base64
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page
from typing_extensions import override

from tests.console.browser.conftest import find_chromium
from tests.console.browser.pages import NARROW, WIDE, Watch, axe, open_page
from tests.console.browser.pictures import PALETTE, take

STRICT = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; form-action 'self'"
GOOD = """<!doctype html><html lang="en"><head><title>Now</title>
<meta name="viewport" content="width=device-width"><link rel="stylesheet" href="style.css"><script src="script.js" defer></script></head>
<body><main><h1>Nothing needs you</h1><label>Resource <input name="resource"></label></main></body></html>"""
FAULTY = {
    "/error": ("", "<script>console.error('out of', 'order')</script>", "console: out of order"),
    "/exception": ("", "<script>throw new Error('unexpected')</script>", "exception: .*unexpected"),
    "/elsewhere": (
        "",
        "<img src='http://localhost:9/pixel.gif' alt=''>",
        "another origin: http://localhost:9/pixel.gif",
    ),
    "/inline": (STRICT, "<script>document.title = 'owned'</script>", "Content Security Policy"),
    "/style": (STRICT, "<p style='color: red'>red</p>", "Content Security Policy"),
    "/handler": (STRICT, "<button onclick='1'>Go</button><script src='click.js'></script>", "Content Security Policy"),
    "/missing": ("", "<img src='nothing.png' alt=''>", "console: .*404"),
}
"""The policy and the body of each page, and the fault that is noticed."""
FILES = {
    "/style.css": "body { background: light-dark(#fff, #111); color: light-dark(#111, #eee); color-scheme: light dark }",
    "/script.js": "document.title = 'Now: nothing'",
    "/click.js": "document.querySelector('button').click()",
}


class Site(http.server.BaseHTTPRequestHandler):
    """Serves these pages."""

    def do_GET(self) -> None:
        policy, body, _ = FAULTY.get(self.path, (STRICT, FILES.get(self.path, GOOD), ""))
        self.send_response(404 if self.path.endswith("nothing.png") else 200)
        kind = {"css": "text/css", "js": "text/javascript"}.get(self.path.rpartition(".")[2], "text/html")
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        if policy:
            self.send_header("Content-Security-Policy", policy)
        self.end_headers()
        self.wfile.write(body.encode())

    @override
    def log_message(self, *_: object) -> None:
        """Stays quiet."""


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    """The URL of the site."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Site) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_faultless_page_passes(page: Page, site: str) -> None:
    page.goto(f"{site}/")
    assert page.title() == "Now: nothing"
    axe(page)


@pytest.mark.parametrize("path", FAULTY)
def test_a_fault_fails_the_test_at_its_end(browser: Browser, site: str, path: str) -> None:
    with pytest.raises(AssertionError, match=FAULTY[path][2]), open_page(browser, Watch()) as page:
        page.goto(f"{site}{path}")


def test_a_fault_can_be_tolerated(browser: Browser, site: str) -> None:
    watch = Watch()
    watch.tolerate("out of order")
    with open_page(browser, watch) as page:
        page.goto(f"{site}/error")
    assert watch.faults == ["console: out of order"]


def test_other_origins_can_be_allowed(browser: Browser, site: str) -> None:
    with open_page(browser, Watch(origins={site, site.replace("127.0.0.1", "localhost")})) as page:
        page.goto(f"{site}/")
        page.goto(site.replace("127.0.0.1", "localhost"))


def test_what_is_not_accessible_is_named(page: Page, site: str) -> None:
    page.goto(f"{site}/")
    page.evaluate("document.querySelector('label').replaceWith(document.querySelector('input'))")
    with pytest.raises(AssertionError, match=r"(?s)label.*input"):
        axe(page)


def test_pictures_show_the_page_in_few_bytes(page: Page, site: str, tmp_path: Path) -> None:
    page.goto(f"{site}/")
    take(page, tmp_path / "now.png")
    seen = {path.name: looks(page, path) for path in tmp_path.iterdir()}
    assert seen == {
        "now-light.png": [WIDE, 255, 255, 255],
        "now-dark.png": [WIDE, 17, 17, 17],
        "now-narrow.png": [NARROW, 255, 255, 255],
    }
    assert max(path.stat().st_size for path in tmp_path.iterdir()) < 5_000


def looks(page: Page, path: Path) -> list[int]:
    """The picture's width, and the colour of its first pixel, as the browser decodes them."""
    png = base64.b64encode(path.read_bytes()).decode()
    width, colours, _ = page.evaluate(PALETTE, png)
    return [width, *colours[0].to_bytes(3, "big")]


def test_a_missing_browser_is_a_failure_that_names_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(pytest.fail.Exception, match="apt-get install chromium-headless-shell"):
        find_chromium()
