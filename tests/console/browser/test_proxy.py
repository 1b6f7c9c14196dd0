"""The console behind nginx with TLS, below a path, as the deployment guide shows it: the whole journey, and a team, in a browser."""

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import httpx
import pytest
from playwright.sync_api import Browser, Page, Playwright, Response, expect

from dispatcher.console.pages import PLACES
from dispatcher.database.transactions import Database
from tests.console.browser.conftest import find_chromium
from tests.console.browser.machine import (
    ANNA,
    CARL,
    GUIDE,
    HEADER,
    HOST,
    LOCATIONS,
    PATH,
    SERVER,
    TOKEN_MODE,
    URL,
    Machine,
    Ports,
    for_a_team,
    keep_the_path,
)
from tests.console.browser.pages import Watch, open_page
from tests.console.browser.test_every_page import PAGES
from tests.console.seeds import Seed, troubled
from tests.processes.conftest import HTTP

EVERY_MS = 5_000
"""Between two readings of a page."""
TOKEN = "t0ken" * 8
WHY = "the plan exists now"
LINKS = """async (paths) => {
    const links = (page, url) => ["href", "src", "action", "formaction"].flatMap((name) =>
        [...page.querySelectorAll(`[${name}]`)].map((one) => one.getAttribute(name))
            .map((written) => [written, new URL(written, new URL(page.querySelector("base")?.getAttribute("href") ?? "", url)).href]))
    if (!paths) return [links(document, location.href)]
    return Promise.all(paths.map(async (path) => {
        const answer = await fetch(path)
        return links(new DOMParser().parseFromString(await answer.text(), "text/html"), answer.url)
    }))
}"""
"""Each link of the page, or of the pages at these URLs, as it is written and where it leads."""


@pytest.fixture(scope="module")
def ports() -> Ports:
    return Ports()


@pytest.fixture(scope="module")
def browser(playwright: Playwright, ports: Ports) -> Iterator[Browser]:
    """A browser for which nginx is the host of the guide, on port 443."""
    resolved = [f"--host-resolver-rules=MAP {HOST}:443 127.0.0.1:{ports.tls}"]
    with playwright.chromium.launch(executable_path=find_chromium(), args=resolved) as launched:
        yield launched


@pytest.fixture
def page(browser: Browser, watch: Watch) -> Iterator[Page]:
    """A page that accepts the test's certificate."""
    with open_page(browser, watch, ignore_https_errors=True) as opened:
        yield opened


@pytest.fixture
def machine(ports: Ports, sow: Callable[[Seed], Database]) -> Iterator[Machine]:
    """The machine, with a database that is in trouble."""
    directory = Path(str(sow(troubled).engine.url.database)).parent
    with ExitStack() as stack:
        yield Machine(ports, directory, stack)


@pytest.fixture
def redirects(page: Page) -> list[str]:
    """Where the answers to this page's requests have led."""
    seen: list[str] = []

    def note(answer: Response) -> None:
        if "location" in answer.headers:
            seen.append(answer.headers["location"])

    page.context.on("response", note)
    return seen


@pytest.fixture
def requests(page: Page) -> list[str]:
    """What this page has asked for."""
    seen: list[str] = []
    page.context.on("request", lambda request: seen.append(request.url))
    return seen


def assert_below(page: Page, urls: list[str] | None = None) -> None:
    """Every link of the page, or of the pages at these URLs, is relative, and leads to a page of the console."""
    for links in page.evaluate(LINKS, urls):
        assert len(links) >= 3
        for written, resolved in links:
            assert not re.match(r"/|[a-z]+:", written), written
            assert resolved.startswith(URL), resolved


# ── with a token


@pytest.mark.parametrize("is_kept", [False, True], ids=["stripped", "kept"])
def test_the_whole_journey_below_a_path(
    page: Page, watch: Watch, machine: Machine, redirects: list[str], requests: list[str], is_kept: bool
) -> None:
    watch.tolerate("status of (400|404)")
    link = machine.run_console("--write", **TOKEN_MODE, **({"console_prefix": PATH.rstrip("/")} if is_kept else {}))
    machine.run_nginx(keep_the_path(SERVER) if is_kept else SERVER)
    assert link.startswith(f"{URL}login?token=")

    page.goto(URL.rstrip("/"))
    assert page.url == urljoin(URL, "login")
    requests.clear()  # until here, nginx led to the console
    redirects.clear()

    page.goto(link)
    page.get_by_label("Your name").fill("anna")
    page.get_by_role("button", name="Continue").click()
    page.wait_for_url(URL)
    (cookie,) = page.context.cookies()
    assert (cookie["domain"], cookie["path"]) == (HOST, PATH.rstrip("/"))
    assert (cookie["secure"], cookie["httpOnly"], cookie["sameSite"]) == (True, True, "Lax")

    for place in PLACES:
        page.get_by_role("navigation").get_by_role("link", name=place.title).click()
        page.wait_for_url(urljoin(URL, place.path))
        assert_below(page)
    assert_below(page, [urljoin(URL, path) for path in PAGES])

    page.goto(urljoin(URL, "dead-letters"))
    page.get_by_label("Reason").select_option("gone")
    page.get_by_role("button", name="Filter").click()
    page.wait_for_url(re.compile(rf"^{re.escape(URL)}dead-letters\?.*reason=gone"))
    expect(page.locator("[data-cause]")).to_have_text("4")

    page.get_by_role("link", name="Replay…").click()
    page.wait_for_url(re.compile(rf"^{re.escape(URL)}actions/replay\?.*reason=gone"))
    assert_below(page)
    page.get_by_label("Why").fill(WHY)
    page.get_by_role("button", name="Replay 4 dead letters").click()
    page.wait_for_url(urljoin(URL, "operations/1"))
    expect(page.get_by_role("heading", name="done")).to_be_visible()
    assert_below(page)
    page.get_by_role("link", name="Back to where it began").click()
    expect(page.get_by_role("main")).to_contain_text("None matches")
    assert_below(page)

    page.get_by_role("button", name="Log out").click()
    page.wait_for_url(urljoin(URL, "login"))
    wanted = urljoin(URL, "dead-letters?reason=rejected&view=list")
    page.goto(wanted)
    assert_below(page)
    page.get_by_label("Your name").fill("anna")
    page.get_by_label("Token").fill(link.partition("token=")[2])
    page.get_by_role("button", name="Log in").click()
    page.wait_for_url(wanted)

    assert [url for url in requests if not url.startswith(URL)] == []
    assert len(redirects) >= 6
    assert [one for one in redirects if re.match(r"/|[a-z]+:", one)] == []


def test_a_page_stands_while_the_proxy_has_no_console_behind_it_and_then_goes_on(
    page: Page, watch: Watch, machine: Machine
) -> None:
    watch.tolerate("status of 502")
    settings = TOKEN_MODE | {"console_token": TOKEN}
    machine.run_console(**settings)
    machine.run_nginx(SERVER)
    page.clock.install()
    page.goto(urljoin(URL, f"login?token={TOKEN}&next=dead-letters"))
    page.wait_for_url(urljoin(URL, "dead-letters"))
    rows = page.locator("tbody tr").count()
    assert rows
    machine.stop_console()
    page.clock.run_for(EVERY_MS)
    expect(page.locator("main.stale tbody tr")).to_have_count(rows)
    expect(page.locator("[data-switch=live]")).to_have_text("No answer")
    machine.run_console(**settings)
    page.clock.run_for(EVERY_MS)
    expect(page.locator("main:not(.stale) tbody tr")).to_have_count(rows)


# ── with a proxy that names the person


@pytest.fixture
def team(machine: Machine) -> Machine:
    """The machine with everything that the guide shows for a team."""
    machine.run_console("--write", **GUIDE)
    machine.run_sign_in()
    machine.run_nginx(for_a_team())
    return machine


REPLAY = "actions/replay?reason=gone&view=list"


@pytest.mark.usefixtures("team")
def test_a_deep_link_survives_the_sign_in_and_an_operator_may_write(page: Page, requests: list[str]) -> None:
    page.goto(urljoin(URL, REPLAY))
    page.get_by_role("link", name=ANNA).click()
    page.wait_for_url(urljoin(URL, REPLAY))
    assert_below(page)
    expect(page.locator(".who")).to_have_text(ANNA)
    page.get_by_label("Why").fill(WHY)
    page.get_by_role("button", name="Replay 4 dead letters").click()
    page.wait_for_url(urljoin(URL, "operations/1"))
    expect(page.get_by_role("main")).to_contain_text(f"By {ANNA}")
    assert {urlsplit(url).path for url in requests if not url.startswith(URL)} == {"/oauth2/callback"}


@pytest.mark.usefixtures("team")
def test_somebody_else_only_reads_also_under_the_name_of_an_operator(browser: Browser, watch: Watch) -> None:
    watch.tolerate("status of 403")
    forged = {HEADER: ANNA}
    with open_page(browser, watch, ignore_https_errors=True, extra_http_headers=forged) as page:
        page.goto(urljoin(URL, "dead-letters"))
        page.get_by_role("link", name=CARL).click()
        page.wait_for_url(urljoin(URL, "dead-letters"))
        expect(page.locator(".who")).to_have_text("read-only")
        expect(page.get_by_role("link", name="Replay…")).to_have_count(0)
        page.goto(urljoin(URL, REPLAY))
        expect(page.get_by_role("main")).to_contain_text("This is for operators")


@pytest.mark.usefixtures("team")
def test_a_page_whose_sign_in_is_over_asks_for_it_again(page: Page) -> None:
    """Although the proxy's page arrives with status 200 at the address that is asked for what is new."""
    page.clock.install()
    page.goto(urljoin(URL, "dead-letters"))
    page.get_by_role("link", name=CARL).click()
    page.wait_for_url(urljoin(URL, "dead-letters"))
    page.context.clear_cookies()
    page.clock.run_for(EVERY_MS)
    page.get_by_role("link", name=ANNA).click()
    page.wait_for_url(urljoin(URL, "dead-letters"))
    expect(page.locator(".who")).to_have_text(ANNA)


def test_a_header_is_believed_from_the_address_of_the_proxy_only(page: Page, watch: Watch, machine: Machine) -> None:
    """Of two on the same machine, which are nothing but addresses to the console."""
    watch.tolerate("status of 403")
    machine.run_console("--write", **GUIDE, console_trusted_proxies="127.0.0.2")
    machine.run_sign_in()
    machine.run_nginx(for_a_team(LOCATIONS.replace("auth_request /", "proxy_bind 127.0.0.2;\n        auth_request /")))
    page.goto(URL)
    page.get_by_role("link", name=ANNA).click()
    page.wait_for_url(URL)
    expect(page.locator(".who")).to_have_text(ANNA)
    for path in ("", "actions/replay?reason=gone"):
        with pytest.raises(httpx.HTTPStatusError, match="403"):
            HTTP.get(f"http://127.0.0.1:{machine.ports.console}/{path}", headers={HEADER: ANNA}).raise_for_status()
