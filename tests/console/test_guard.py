"""The guard: who gets through, from where, and with which headers."""

import re
from collections.abc import AsyncIterator

import httpx
import pytest
from starlette.requests import Request
from structlog.testing import capture_logs

from dispatcher.console.guard import Refusals
from dispatcher.database.transactions import Database
from tests.console.conftest import NO_TLS, Console, Start, words

PATHS = ("", "dead-letters", "dead-letters/1", "search?q=1", "logout", "name", "nowhere")


@pytest.fixture
async def stranger() -> AsyncIterator[httpx.AsyncClient]:
    """Somebody without a session, who does not follow redirects."""
    async with httpx.AsyncClient(verify=NO_TLS, trust_env=False, timeout=60) as client:
        yield client


@pytest.mark.parametrize("path", PATHS)
async def test_without_a_session_every_page_is_the_login(
    console: Console, trouble: Database, stranger: httpx.AsyncClient, path: str
) -> None:
    answer = await stranger.get(console.at(path))
    assert (answer.status_code, answer.content) == (303, b"")
    login = await stranger.get(console.at(path), follow_redirects=True)
    assert "<h1>Log in</h1>" in login.text
    assert "icfg_1" not in login.text
    assert trouble.engine.url.database is not None
    assert trouble.engine.url.database not in login.text


async def test_the_login_may_load_its_files(console: Console, stranger: httpx.AsyncClient) -> None:
    login = await stranger.get(console.at("login"))
    files = re.findall(r'(?:href|src)="([^"]+)"', login.text)
    assert len(files) >= 3
    for file in files:
        assert (await stranger.get(console.at(file))).status_code == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example.com", "127.0.0.1.evil.example.com", "evil@127.0.0.1", "127.0.0.1/evil", "10.0.0.5", "[::1", ""],
)
async def test_an_address_that_is_not_the_consoles_is_refused(console: Console, host: str) -> None:
    """A page of another site can make its own name lead to 127.0.0.1."""
    answer = await console.get("", host=host)
    assert answer.status_code == 400
    assert "DISPATCHER_CONSOLE_URL" in answer.text


@pytest.mark.parametrize("host", ["localhost", "localhost:8000", "[::1]:9465", "127.0.0.2", "Console.Example.com"])
async def test_the_names_of_this_machine_and_the_consoles_own_are_its_addresses(start: Start, host: str) -> None:
    console = await start(console_url="https://console.example.com/tools")
    assert (await console.get("login", host=host)).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"origin": "null"},
        {"origin": "https://evil.example.com"},
        {"origin": "http://127.0.0.1:1"},
        {"origin": "http://localhost"},
        {"origin": "https://console.example.com.evil.example.com"},
        {"origin": "https://console.example.com:8443"},
    ],
)
async def test_a_form_of_another_site_changes_nothing(start: Start, headers: dict[str, str]) -> None:
    console = await start(console_url="https://console.example.com")
    answer = await console.browser.post(console.at("logout"), headers=headers)
    assert answer.status_code == 403
    assert "proxy_set_header Host $host" in answer.text


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("https://console.example.com", "console.example.com"),
        ("https://console.example.com", "127.0.0.1:9465"),  # a proxy that sends a header Host of its own
        ("http://localhost:8000", "localhost:8000"),  # a forwarded port
        ("http://[::1]:9465", "[::1]:9465"),
    ],
)
async def test_the_consoles_own_forms_arrive(start: Start, origin: str, host: str) -> None:
    console = await start(console_url="https://console.example.com")
    answer = await console.browser.post(
        console.at("login"), data={"token": "wrong"}, headers={"origin": origin, "host": host}
    )
    assert answer.status_code == 403
    assert "Wrong token" in answer.text


async def test_every_answer_has_the_headers_that_protect_it(console: Console) -> None:
    answers = [await console.get(path) for path in ("", "login", "nowhere", "dead-letters?reason=none")]
    answers += [await console.get("", host="evil"), await console.browser.post(console.at("logout"))]
    answers += [await console.get("", if_none_match=answers[0].headers["etag"]), await console.post("dead-letters")]
    answers += answers[1].history
    assert {answer.status_code for answer in answers} == {200, 304, 400, 403, 404, 405}
    for answer in answers:
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; ")
        assert "unsafe-" not in policy
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "same-origin"
        assert answer.headers["x-robots-tag"] == "noindex"
        for name in ("cross-origin-opener-policy", "cross-origin-resource-policy"):
            assert answer.headers[name] == "same-origin"


async def test_a_probe_is_answered_under_any_address_and_shown_nothing(
    start: Start, stranger: httpx.AsyncClient
) -> None:
    console = await start(console_prefix="/tools/outbox")
    for path in ("livez", "tools/outbox/livez"):
        answer = await stranger.get(console.at(path), headers={"host": "10.0.0.5:9465"})
        assert (answer.status_code, answer.text) == (200, '{"live":true}')
        assert (await stranger.post(console.at(path))).status_code == 405
    assert (await stranger.get(console.at("livez/.."))).status_code == 303


# ── behind a proxy that names the person

HEADER = {"console_user_header": "X-User", "console_operators": ("anna",)}


@pytest.mark.parametrize(
    ("may_write", "name", "shown"), [(True, "anna", "anna"), (True, "ben", "read-only"), (False, "anna", "read-only")]
)
async def test_the_proxy_names_the_person_and_only_operators_may_write(
    start: Start, may_write: bool, name: str, shown: str
) -> None:
    console = await start(**HEADER, may_write=may_write)
    answer = await console.get("", x_user=name)
    assert answer.status_code == 200
    assert f'<span class="who">{shown}</span>' in answer.text
    assert "Log out" not in answer.text


async def test_a_header_from_elsewhere_is_not_believed(start: Start) -> None:
    console = await start(**HEADER, console_trusted_proxies="10.0.0.0/8")
    answer = await console.get("", x_user="anna", x_forwarded_for="10.0.0.1")
    assert answer.status_code == 403
    assert "127.0.0.1, which is none of DISPATCHER_CONSOLE_TRUSTED_PROXIES" in words(answer.text)


@pytest.mark.parametrize("headers", [[], [("X-User", "")], [("X-User", "ben"), ("X-User", "anna")]])
async def test_nobody_or_two_people_at_once_do_not_enter(start: Start, headers: list[tuple[str, str]]) -> None:
    console = await start(**HEADER)
    answer = await console.browser.get(console.url, headers=headers)
    assert answer.status_code == 403
    assert "in one header X-User" in answer.text


async def test_there_is_no_login_where_a_proxy_knows_the_person(start: Start) -> None:
    console = await start(**HEADER)
    assert (await console.get(f"login?token={console.token}", x_user="anna")).status_code == 404


# ── below a path


@pytest.mark.parametrize("path", ["/tools/outbox/", "/"], ids=["kept", "stripped"])
@pytest.mark.usefixtures("trouble")
async def test_it_works_below_a_path_that_the_proxy_keeps_or_strips(start: Start, path: str) -> None:
    console = await start(console_prefix="/tools/outbox")
    page = await console.browser.get(console.at(f"{path}login?token={console.token}&next=dead-letters/1"))
    assert page.url.path == f"{path}dead-letters/1"
    assert page.status_code == 200
    assert not re.search(r'(?:href|src|action)="(?!\.\.?/)', page.text.replace('href="#main"', "")), (
        "a link is not relative"
    )
    assert [one.headers["location"] for one in page.history] == ["./dead-letters/1"]


async def test_below_a_path_its_missing_slash_is_added(start: Start) -> None:
    console = await start(console_prefix="/tools/outbox")
    answer = await console.browser.get(console.at("/tools/outbox"))
    assert answer.url.path == "/tools/outbox/login"


# ── the log


async def test_refusals_are_logged_without_what_was_tried(console: Console) -> None:
    with capture_logs() as lines:
        await console.get("", host="evil.example.com")
        await console.post("login", token="canary-Zx81_secret")
    assert [line["why"] for line in lines] == ["wrong host", "wrong token"]
    assert {line["peer"] for line in lines} == {"127.0.0.1"}
    assert "canary" not in str(lines)


def test_many_refusals_are_a_few_lines() -> None:
    now = 0.0
    refusals = Refusals(lambda: now)
    with capture_logs() as lines:
        for _ in range(20):
            refusals.note("wrong token", Request({"type": "http", "client": None}))
        now = 10.0
        refusals.note("wrong token", Request({"type": "http", "client": ("10.0.0.1", 1)}))
    assert [line.get("more") for line in lines] == [None] * 5 + [15, None]
