"""Logging in, staying logged in, and out again."""

import json
from base64 import urlsafe_b64encode
from collections.abc import Mapping

import httpx
import pytest
from starlette.responses import Response

from dispatcher.console.links import own_page
from dispatcher.console.sessions import SESSION_SECONDS, Sessions
from tests.console.conftest import NO_TLS, OPERATOR, Console, Start

TOKEN = "t" * 32


@pytest.mark.usefixtures("trouble")
async def test_the_link_is_exchanged_for_a_cookie_and_leaves_no_trace(console: Console) -> None:
    console.browser.cookies.clear()
    page = await console.log_in("dead-letters/1")
    assert "Dead letter 1" in page.text
    (exchange,) = page.history
    cookie = exchange.headers["set-cookie"]
    assert exchange.status_code == 303
    assert cookie.startswith("dispatcher_console_")
    assert {"HttpOnly", "SameSite=lax", "Max-Age=43200"} <= set(cookie.split("; "))
    assert not {"Secure", "Path"} & {part.partition("=")[0] for part in cookie.split("; ")}
    for text in (exchange.headers["location"], cookie, page.text):
        assert console.token not in text


async def test_a_cookie_of_an_https_address_is_secure(start: Start) -> None:
    console = await start(console_url="https://console.example.com")
    answer = await console.browser.get(console.at(f"login?token={console.token}"), follow_redirects=False)
    assert "Secure" in answer.headers["set-cookie"].split("; ")


async def test_the_form_does_the_same(console: Console) -> None:
    console.browser.cookies.clear()
    page = await console.post("login", token=f" {console.token}\n", next="dead-letters")
    assert page.url.path == "/dead-letters"


@pytest.mark.parametrize("token", ["", "x", "%C3%A9", "%ED%A0%80", "%FF"])
async def test_a_wrong_token_is_refused(console: Console, token: str) -> None:
    console.browser.cookies.clear()
    sent = f"token={token}&next=dead-letters".encode()
    page = await console.browser.post(console.at("login"), content=sent, headers=console.origin)
    assert page.status_code == 403
    assert "Wrong token" in page.text
    assert 'value="dead-letters"' in page.text
    assert not console.browser.cookies


async def test_a_session_that_is_over_leads_to_the_login_and_back(console: Console) -> None:
    console.browser.cookies.clear()
    login = await console.get("dead-letters?reason=gone&since=24h")
    assert login.url.path == "/login"
    page = await console.post("login", token=console.token, next=login.url.params["next"])
    assert str(page.url) == console.at("dead-letters?reason=gone&since=24h")


async def test_logging_out_ends_the_session_also_where_its_cookie_was_copied(console: Console) -> None:
    copied = dict(console.browser.cookies)
    page = await console.post("logout")
    assert page.url.path == "/login"
    assert not console.browser.cookies
    async with httpx.AsyncClient(verify=NO_TLS, trust_env=False, cookies=copied) as thief:
        assert (await thief.get(console.url)).status_code == 303


async def test_who_may_write_is_asked_for_a_name(start: Start) -> None:
    console = await start(may_write=True)
    asked = await console.log_in("dead-letters")
    assert asked.url.path == "/name"
    assert f'value="{OPERATOR}"' in asked.text
    page = await console.post("name", name=" Anna <b> ", next="dead-letters")
    assert page.url.path == "/dead-letters"
    assert '<span class="who">Anna &lt;b&gt;</span>' in page.text


async def test_the_form_asks_for_the_name_at_once(start: Start) -> None:
    console = await start(may_write=True)
    assert 'name="name"' in (await console.get("login")).text
    page = await console.post("login", token=console.token, name="anna")
    assert '<span class="who">anna</span>' in page.text


async def test_a_form_of_any_length_is_not_read_to_its_end(console: Console) -> None:
    answer = await console.post("login", token="x" * 100_000)
    assert answer.status_code == 413


@pytest.mark.parametrize(
    "text", ["", "dead-letters", "dead-letters/7", "dead-letters?reason=gone&since=24h", "dead-letters?resource=db%2F1"]
)
def test_a_page_of_the_console_is_opened_after_the_login(text: str) -> None:
    assert own_page(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "//evil.example.com",
        "/evil",
        "https://evil.example.com",
        "https:evil",
        "javascript:alert(1)",
        "\\\\evil",
        "dead-letters\\..",
        "../evil",
        "dead-letters//evil",
        "a?b\r\nSet-Cookie: c",
        " //evil",
        "dead-letters#x",
    ],
)
async def test_no_other_page_is(console: Console, text: str) -> None:
    assert own_page(text) == ""
    answer = await console.browser.post(
        console.at("login"),
        data={"token": console.token, "next": text},
        headers=console.origin,
        follow_redirects=False,
    )
    assert answer.headers["location"] == "./"


# ── cookies


def begin(sessions: Sessions, name: str = "anna") -> Mapping[str, str]:
    """The cookies of a browser after the login."""
    response = Response()
    sessions.begin(name, response)
    name, _, value = response.headers["set-cookie"].partition(";")[0].partition("=")
    return {name: value}


def test_a_session_lasts_twelve_hours() -> None:
    now = 0.0
    sessions = Sessions(TOKEN, is_secure=False, clock=lambda: now)
    cookies = begin(sessions, "ännä")
    now = SESSION_SECONDS - 1
    session = sessions.read(cookies)
    assert session is not None
    assert session.name == "ännä"
    now += 1
    assert sessions.read(cookies) is None


def test_another_token_does_not_take_it() -> None:
    cookies = begin(Sessions(TOKEN, is_secure=False))
    other = Sessions("u" * 32, is_secure=False)
    assert other.read(cookies) is None
    assert other.read({other.cookie: next(iter(cookies.values()))}) is None


def test_a_cookie_that_was_changed_is_worth_nothing() -> None:
    sessions = Sessions(TOKEN, is_secure=False)
    ((name, value),) = begin(sessions).items()
    payload, _, signature = value.partition(".")
    forged = urlsafe_b64encode(json.dumps(["id", "root", 1e12]).encode()).decode()
    for changed in (
        "",
        ".",
        payload,
        f"{payload}.",
        f"{forged}.{signature}",
        f"{payload}.é",
        f"{payload}x.{signature}",
    ):
        assert sessions.read({name: changed}) is None
    assert sessions.read({name: value}) is not None


def test_sessions_that_ended_long_ago_are_forgotten() -> None:
    now = 0.0
    sessions = Sessions(TOKEN, is_secure=False, clock=lambda: now)
    for _ in range(2):
        now += 2 * SESSION_SECONDS
        session = sessions.read(begin(sessions))
        assert session is not None
        sessions.end(session, Response())
    assert len(sessions._ended) == 1
