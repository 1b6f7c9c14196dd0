"""`dispatcher drain` as a process behind a proxy; both servers have certificates of a private authority."""

import asyncio
from pathlib import Path

import pytest
import trustme

from tests.cli.conftest import Ended, Terminal
from tests.unit.raw_server import LOGIN, PROXY_CANARY, QUOTED_LOGIN, answer, certified, proxying, running

TOKEN = b'{"access_token": "t0ken", "expires_in": 3600}'


@pytest.mark.parametrize("trusted", [True, False])
async def test_token_and_event_go_through_the_proxy_if_it_and_the_authority_are_trusted(
    dispatcher: Terminal, tmp_path: Path, trusted: bool
) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    dispatcher("publish", "--installation", "icfg_1", "--resource", "db_1")
    async with running(answer("200 OK", TOKEN), tls=certified(authority)) as server, proxying(LOGIN.encode()) as proxy:
        settings = {
            "vercel_base_url": server.url,
            "oauth_token_url": f"{server.url}/token",
            "oauth_client_id": "partner",
            "oauth_client_secret": "password",
            "log_level": "debug",
        }
        if trusted:
            settings |= {"trust_env_proxy": "true", "ca_file": str(tmp_path / "ca.pem")}
        proxies = {"https_proxy": f"http://{QUOTED_LOGIN}@127.0.0.1:{proxy.port}", "no_proxy": ""}
        environ = dispatcher.environ(**settings) | proxies
        ended: Ended = await asyncio.to_thread(dispatcher.in_process, environ, "drain", "--max-seconds", "20", "--json")
    (drained,) = ended.rows
    assert (drained["delivered"], len(proxy.heads)) == ((1, 2) if trusted else (0, 0))
    assert [request.split()[1] for request in server.requests] == [
        b"/token",
        b"/v1/installations/icfg_1/events",
    ] * trusted
    assert PROXY_CANARY not in ended.out + ended.err
