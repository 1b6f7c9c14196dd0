"""The console as a command behind nginx with TLS, below a path, as the deployment guide shows both: the whole journey in a browser."""

import os
import re
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, quote, urljoin, urlsplit

import httpx
import pytest
import trustme
from playwright.sync_api import Browser, Page, Response, expect, sync_playwright
from typing_extensions import override

from dispatcher.console.pages import PLACES
from dispatcher.database.transactions import Database
from tests.cli.conftest import COMMAND, Terminal
from tests.console.browser.conftest import find_chromium
from tests.console.browser.pages import Watch, open_page
from tests.console.browser.test_every_page import PAGES
from tests.console.seeds import Seed, troubled
from tests.deploy.documents import blocks
from tests.processes.conftest import HTTP, free_port, wait_until

*_, SETTINGS = blocks("README.md", "ini")
SERVER, LOCATIONS = blocks("README.md", "nginx")
GUIDE = {
    name.removeprefix("DISPATCHER_").lower(): value
    for name, value in (line.split("=", 1) for line in SETTINGS.splitlines())
}
"""The settings that the guide shows for a team."""
TOKEN_MODE = {name: GUIDE[name] for name in ("console_url", "console_label")}
URL = f"{GUIDE['console_url']}/"
HOST, PATH = str(urlsplit(URL).hostname), urlsplit(URL).path
HEADER = GUIDE["console_user_header"]
ANNA = GUIDE["console_operators"].partition(",")[0]
CARL = "carl@example.com"
"""Not an operator."""
DEADLINE_MS = 30_000
WHY = "the plan exists now"
NGINX = shutil.which("nginx", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"]))
CONFIG = """
{user}
worker_processes 1;
daemon off;
pid {directory}/pid;
error_log stderr;
events {{ }}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    port_in_redirect off; # for the browser it is port 443
    {server}
}}
"""
LINKS = """() => ["href", "src", "action", "formaction"].flatMap((name) => [...document.querySelectorAll(`[${name}]`)]
    .map((one) => [one.getAttribute(name), new URL(one.getAttribute(name), document.baseURI).href]))"""
"""Each link of the page, as it is written and where it leads."""


@dataclass(frozen=True)
class Ports:
    """Where the servers of these tests listen."""

    tls: int = field(default_factory=free_port)
    console: int = field(default_factory=free_port)
    sign_in: int = field(default_factory=free_port)


@pytest.fixture(scope="module")
def ports() -> Ports:
    return Ports()


@pytest.fixture(scope="module")
def browser(ports: Ports) -> Iterator[Browser]:
    """A browser for which nginx is the host of the guide, on port 443."""
    expect.set_options(timeout=DEADLINE_MS)
    resolved = [f"--host-resolver-rules=MAP {HOST}:443 127.0.0.1:{ports.tls}"]
    with (
        sync_playwright() as playwright,
        playwright.chromium.launch(executable_path=find_chromium(), args=resolved) as launched,
    ):
        yield launched


@pytest.fixture
def page(browser: Browser, watch: Watch) -> Iterator[Page]:
    """A page that accepts the test's certificate."""
    with open_page(browser, watch, ignore_https_errors=True) as opened:
        yield opened


@dataclass
class Place:
    """The machine of the guide, with a console on a database of its own."""

    ports: Ports
    directory: Path
    stack: ExitStack

    def run_console(self, *arguments: str, **settings: str) -> str:
        """Starts `dispatcher console`; returns the address that it prints."""
        environ = Terminal(self.directory).environ(**settings, console_port=str(self.ports.console))
        command = [str(COMMAND), "console", *arguments]
        with (self.directory / "console.log").open("w") as log:
            running = subprocess.Popen(
                command, cwd=self.directory, env=environ, stdout=subprocess.PIPE, stderr=log, text=True
            )
        self._end_later(running)
        assert running.stdout is not None
        return str(running.stdout.readline()).split()[-1]

    def run_nginx(self, server: str) -> None:
        """Starts nginx with this configuration of the guide, on other ports and with a certificate of its own."""
        if NGINX is None:
            pytest.fail("nginx is not installed (Debian: apt-get install nginx-light)", pytrace=False)
        certificate = self.directory / "certificate.pem"
        trustme.CA().issue_cert(HOST).private_key_and_cert_chain_pem.write_to_path(str(certificate))
        for there, here in (
            ("listen 443 ssl;", f"listen 127.0.0.1:{self.ports.tls} ssl;"),
            (r"(ssl_certificate(_key)?) .*;", rf"\1 {certificate};"),
            ("127.0.0.1:9465", f"127.0.0.1:{self.ports.console}"),
            ("127.0.0.1:4180", f"127.0.0.1:{self.ports.sign_in}"),
        ):
            server = re.sub(there, here, server)
        config = self.directory / "nginx.conf"
        user = "user root;" if os.geteuid() == 0 else ""
        config.write_text(CONFIG.format(user=user, directory=self.directory, server=server))
        command = [NGINX, "-c", str(config), "-p", str(self.directory), "-e", "stderr"]
        with (self.directory / "nginx.log").open("w") as log:
            running = subprocess.Popen(command, stderr=log)
        self._end_later(running)
        wait_until(lambda: running.poll() is not None or listens(self.ports.tls))
        assert running.poll() is None, (self.directory / "nginx.log").read_text()

    def _end_later(self, running: subprocess.Popen[Any]) -> None:
        self.stack.enter_context(running)  # waits for its end
        self.stack.callback(running.terminate)

    def run_sign_in(self) -> None:
        """Starts the stand-in for oauth2-proxy."""
        self.stack.enter_context(serving_sign_in(self.ports.sign_in))


def listens(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), 5):
        return True
    return False


@pytest.fixture
def place(ports: Ports, sow: Callable[[Seed], Database]) -> Iterator[Place]:
    """The machine, with a database that is in trouble."""
    directory = Path(str(sow(troubled).engine.url.database)).parent
    with ExitStack() as stack:
        yield Place(ports, directory, stack)


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


def assert_below(page: Page) -> None:
    """Every link of the page is relative, and leads to a page of the console."""
    links = page.evaluate(LINKS)
    assert len(links) >= 3
    for written, resolved in links:
        assert not re.match(r"/|[a-z]+:", written), written
        assert resolved.startswith(URL), resolved


# ── with a token


@pytest.mark.parametrize("is_kept", [False, True], ids=["stripped", "kept"])
def test_the_whole_journey_below_a_path(
    page: Page, watch: Watch, place: Place, redirects: list[str], requests: list[str], is_kept: bool
) -> None:
    watch.tolerate("status of (400|404)")
    link = place.run_console("--write", **TOKEN_MODE, **({"console_prefix": PATH.rstrip("/")} if is_kept else {}))
    place.run_nginx(keep_the_path(SERVER) if is_kept else SERVER)
    assert link.startswith(f"{URL}login?token=")

    page.goto(link)
    page.get_by_label("Your name").fill("anna")
    page.get_by_role("button", name="Continue").click()
    page.wait_for_url(URL)
    (cookie,) = page.context.cookies()
    assert (cookie["domain"], cookie["path"]) == (HOST, PATH.rstrip("/"))
    assert (cookie["secure"], cookie["httpOnly"], cookie["sameSite"]) == (True, True, "Lax")

    for place_ in PLACES:
        page.get_by_role("navigation").get_by_role("link", name=place_.title).click()
        page.wait_for_url(urljoin(URL, place_.path))
        assert_below(page)
    for path in PAGES:
        page.goto(urljoin(URL, path))
        assert_below(page)

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


def keep_the_path(server: str) -> str:
    """As the comment in the guide says."""
    assert server.count(":9465/;") == 1
    return server.replace(":9465/;", ":9465;")


@pytest.mark.parametrize("is_kept", [False, True], ids=["stripped", "kept"])
def test_the_path_without_its_slash_leads_to_the_login(page: Page, place: Place, is_kept: bool) -> None:
    place.run_console(**TOKEN_MODE, **({"console_prefix": PATH.rstrip("/")} if is_kept else {}))
    place.run_nginx(keep_the_path(SERVER) if is_kept else SERVER)
    page.goto(URL.rstrip("/"))
    assert page.url == urljoin(URL, "login")


# ── with a proxy that names the person


class SignIn(BaseHTTPRequestHandler):
    """What oauth2-proxy answers to nginx: who this is, or a page on which people choose."""

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        if url.path == "/oauth2/auth":
            person = self.headers.get("Cookie", "").partition("_oauth2_proxy=")[2]
            self._answer(202 if person else 401, **({HEADER: person} if person else {}))
        elif url.path == "/oauth2/callback":
            ((person,), (wanted,)) = (parse_qs(url.query)[name] for name in ("person", "rd"))
            self._answer(302, Location=wanted, Set_Cookie=f"_oauth2_proxy={person}; Path=/; Secure; HttpOnly")
        else:
            wanted = quote(self.headers["X-Auth-Request-Redirect"], safe="")
            links = [f'<a href="/oauth2/callback?person={one}&amp;rd={wanted}">{one}</a>' for one in (ANNA, CARL)]
            self._answer(200, f"<title>Sign in</title>{' '.join(links)}", Content_Type="text/html")

    def _answer(self, status: int, body: str = "", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    @override
    def log_message(self, *_: object) -> None:
        """Stays quiet."""


@contextmanager
def serving_sign_in(port: int) -> Iterator[None]:
    with ThreadingHTTPServer(("127.0.0.1", port), SignIn) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def team(place: Place) -> Place:
    """The machine with everything that the guide shows for a team."""
    place.run_console("--write", **GUIDE)
    place.run_sign_in()
    place.run_nginx(for_a_team())
    return place


def for_a_team(locations: str = LOCATIONS) -> str:
    """The server of the guide with these locations in place of its own."""
    server, replaced = re.subn(r"(?ms)^    location .*?^    }\n", lambda _: locations, SERVER)
    assert replaced == 1
    return server


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
    page.clock.run_for(5_000)
    page.get_by_role("link", name=ANNA).click()
    page.wait_for_url(urljoin(URL, "dead-letters"))
    expect(page.locator(".who")).to_have_text(ANNA)


def test_a_header_is_believed_from_the_address_of_the_proxy_only(page: Page, watch: Watch, place: Place) -> None:
    """Of two on the same machine, which are nothing but addresses to the console."""
    watch.tolerate("status of 403")
    place.run_console("--write", **GUIDE, console_trusted_proxies="127.0.0.2")
    place.run_sign_in()
    place.run_nginx(for_a_team(LOCATIONS.replace("auth_request /", "proxy_bind 127.0.0.2;\n        auth_request /")))
    page.goto(URL)
    page.get_by_role("link", name=ANNA).click()
    page.wait_for_url(URL)
    expect(page.locator(".who")).to_have_text(ANNA)
    for path in ("", "actions/replay?reason=gone"):
        with pytest.raises(httpx.HTTPStatusError, match="403"):
            HTTP.get(f"http://127.0.0.1:{place.ports.console}/{path}", headers={HEADER: ANNA}).raise_for_status()
