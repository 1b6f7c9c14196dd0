"""Tokens from an OAuth 2.0 token endpoint."""

import asyncio

import httpx
import pytest
from pydantic import SecretStr

from dispatcher.credentials.bearer_token import CredentialsUnavailable, NoCredential
from dispatcher.credentials.oauth import Grant, OAuthCredentials
from dispatcher.transport.portable import HttpxTransport


def open_oauth(*statuses: int, pauses: list[float] | None = None) -> tuple[OAuthCredentials, list[bytes]]:
    """Opens a source whose endpoint answers with these statuses, the last of them again and again; lists the requests."""
    asked: list[bytes] = []

    def reply(request: httpx.Request) -> httpx.Response:
        asked.append(request.content)
        status = statuses[min(len(asked), len(statuses)) - 1]
        return httpx.Response(
            status, json={"access_token": f"t{len(asked)}", "expires_in": 3600, "error": "invalid_grant"}
        )

    grant = Grant("https://auth.example/token", "id", SecretStr("hush"), {"installation": "{installation_id}"})

    async def sleep(seconds: float) -> None:
        if pauses is not None:
            pauses.append(seconds)

    return OAuthCredentials(HttpxTransport(httpx.MockTransport(reply)), grant, timeout=5, ttl=60, sleep=sleep), asked


async def test_oauth_asks_once_for_all_that_wait() -> None:
    credentials, asked = open_oauth(200)
    tokens = await asyncio.gather(*(credentials.token("icfg_1") for _ in range(20)))
    assert {token.get_secret_value() for token in tokens} == {"t1"}
    assert len(asked) == 1
    assert b"installation=icfg_1" in asked[0]
    assert (await credentials.token("icfg_1", refused=SecretStr("t1"))).get_secret_value() == "t2"


async def test_oauth_retries_failures_and_blames_the_endpoint() -> None:
    credentials, asked = open_oauth(503, 200)
    assert (await credentials.token("i")).get_secret_value() == "t2"
    pauses: list[float] = []
    credentials, asked = open_oauth(503, pauses=pauses)
    with pytest.raises(CredentialsUnavailable) as failed:
        await credentials.token("i")
    assert len(asked) == 3
    assert [0 <= pause <= limit for pause, limit in zip(pauses, (0.25, 0.5), strict=True)] == [True, True]
    assert "hush" not in str(failed.value)
    with pytest.raises(NoCredential):
        await open_oauth(400)[0].token("i")
