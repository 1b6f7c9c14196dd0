"""What `dispatcher check` finds out about Vercel's address and the way there."""

import asyncio
import re
import socket

import pytest
import trustme
from pydantic import SecretStr

from dispatcher.inspection.checks.endpoint import check_base_url
from dispatcher.inspection.checks.finding import Level
from dispatcher.inspection.checks.network import check_network
from dispatcher.settings.settings import Settings
from dispatcher.transport import Network
from tests.unit.raw_server import DELIVERED, LOGIN, PROXY_CANARY, QUOTED_LOGIN, certified, close, proxying, running

pytestmark = pytest.mark.usefixtures("nothing_in_the_environment")


@pytest.mark.parametrize("login", [LOGIN.encode(), None])
async def test_check_connects_through_the_proxy_and_sends_nothing(
    login: bytes | None, authority: trustme.CA, ca_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(DELIVERED, tls=certified(authority)) as server, proxying(login) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://{f'{QUOTED_LOGIN}@' if login else ''}127.0.0.1:{proxy.port}")
        settings = Settings(vercel_base_url=server.url, ca_file=ca_file, trust_env_proxy=True)
        network = Network(settings.ca_file, trust_env_proxy=settings.trust_env_proxy)
        (found,) = await asyncio.to_thread(check_base_url, settings, network)
        (_, route) = check_network(settings, network)
    shown = f"through the proxy http://{'***@' if login else ''}127.0.0.1:{proxy.port}"
    assert (found.level, route.level) == (Level.OK, Level.OK)
    assert found.what.endswith(shown)
    assert route.what.endswith(shown)
    assert (len(proxy.heads), server.requests) == (1, [])


@pytest.mark.parametrize("port", [0, 1])
async def test_check_blames_the_proxy_that_does_not_connect(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    async with proxying(b"another") as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://{QUOTED_LOGIN}@127.0.0.1:{port or proxy.port}")
        settings = Settings(trust_env_proxy=True)
        (found,) = await asyncio.to_thread(
            check_base_url, settings, Network(settings.ca_file, trust_env_proxy=settings.trust_env_proxy)
        )
    assert found.level is Level.PROBLEM
    assert re.search(r"api\.vercel\.com port 443 cannot be reached through the proxy http://\*\*\*@127", found.what)
    assert "HTTPS_PROXY" in found.what
    assert PROXY_CANARY not in found.what


async def test_check_tells_what_speaks_no_tls_and_what_does_not_answer() -> None:
    async def greet(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail.example ESMTP\r\n")
        await close(writer)

    async with await asyncio.start_server(greet, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        settings = Settings(vercel_base_url=f"https://127.0.0.1:{port}")
        (found,) = await asyncio.to_thread(check_base_url, settings, Network())
    assert found.what.endswith("it does not speak TLS; DISPATCHER_VERCEL_BASE_URL may be wrong")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        settings = Settings(vercel_base_url=f"https://127.0.0.1:{silent.getsockname()[1]}")
        (found,) = check_base_url(settings, Network(), timeout=0.1)
    assert found.level is Level.PROBLEM
    assert "no answer within 0.1 s" in found.what
    assert "DISPATCHER_TRUST_ENV_PROXY=true" in found.what


def test_check_does_not_try_what_a_connection_would_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "https://127.0.0.1:1")
    settings = Settings(trust_env_proxy=True)
    (found,) = check_base_url(settings, Network(settings.ca_file, trust_env_proxy=settings.trust_env_proxy))
    assert found.level is Level.OK
    assert "not tried" in found.what


def test_check_names_the_hosts_that_are_asked_directly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("NO_PROXY", "vercel.com")
    settings = Settings(
        trust_env_proxy=True,
        oauth_token_url="https://tokens.test/token",
        oauth_client_id="me",
        oauth_client_secret=SecretStr("s"),
    )
    _, vercel, tokens = check_network(settings, Network(settings.ca_file, trust_env_proxy=settings.trust_env_proxy))
    assert vercel.what == "api.vercel.com is reached directly"
    assert tokens.what == "tokens.test is reached through the proxy http://127.0.0.1:1"
