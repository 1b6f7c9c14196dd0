"""The sandbox's rate limit: exact, for each installation, and reported as Vercel reports it."""

import asyncio
import math

import pytest
from pydantic import SecretStr

from dispatcher.outbox.events import Subject
from dispatcher.policy.outcome import OutcomeKind
from dispatcher.policy.rate_window import RateLimit
from dispatcher.sandbox import ReceivedRequest
from dispatcher.sandbox.quota import Quota
from dispatcher.transport import Network, open_transport
from dispatcher.vercel.client import Vercel
from tests.sandbox.conftest import TOKEN, Start


async def test_the_default_is_sixty_a_minute(start: Start) -> None:
    _, client = await start()
    answers = [await client.post() for _ in range(61)]
    assert [answer.status_code for answer in answers] == [201] * 60 + [429]
    assert [answer.headers["x-ratelimit-limit"] for answer in answers] == ["60"] * 61
    assert [answer.headers["x-ratelimit-remaining"] for answer in answers] == [*map(str, reversed(range(60))), "0"]


async def test_a_429_reports_how_long_to_wait(start: Start) -> None:
    sandbox, client = await start(rate_limit=RateLimit(1, 600.0))
    await client.post()
    answer = await client.post()
    first, second = sandbox.requests
    room_in = first.monotonic + 600.0 - second.monotonic
    room_at = second.received_at + room_in
    reset = int(answer.headers["x-ratelimit-reset"])
    assert room_at <= reset + 0.001 < room_at + 1.002
    assert int(answer.headers["retry-after"]) == math.ceil(room_in)
    error = answer.json()["error"]
    assert room_at * 1_000 == pytest.approx(error["limit"].pop("resetMs"), abs=5)
    assert error["message"]
    assert (error["code"], error["limit"]) == ("rate_limited", {"remaining": 0, "reset": reset, "total": 1})


async def test_each_installation_has_its_own(start: Start) -> None:
    _, client = await start(rate_limit=RateLimit(1, 600.0))
    answers = [await client.post(installation=name) for name in ("icfg_1", "icfg_2", "icfg_1", "icfg_2")]
    assert [answer.status_code for answer in answers] == [201, 201, 429, 429]


async def test_it_counts_authorized_requests_even_if_they_are_invalid(start: Start) -> None:
    _, client = await start(rate_limit=RateLimit(2, 600.0), tokens=frozenset({TOKEN}))
    unauthorized = await client.post(token="unknown")
    assert "x-ratelimit-limit" not in unauthorized.headers
    answers = [await client.post(body) for body in ({}, {"event": {"type": "installation.updated"}}, {})]
    assert [answer.status_code for answer in answers] == [400, 201, 429]


async def test_it_can_be_switched_off(start: Start) -> None:
    _, client = await start(rate_limit=None)
    answers = [await client.post() for _ in range(80)]
    assert {answer.status_code for answer in answers} == {201}
    assert not [name for name in answers[0].headers if name.startswith("x-ratelimit")]


async def test_no_window_admits_more_and_none_with_room_refuses(start: Start) -> None:
    limit = RateLimit(7, 0.25)
    sandbox, client = await start(rate_limit=limit)

    def answered(status: int) -> int:
        return sum(one.status == status for one in sandbox.requests)

    async def flood() -> None:
        while answered(201) < 4 * limit.requests or answered(429) < 20:
            await client.post()

    await asyncio.wait_for(asyncio.gather(*(flood() for _ in range(4))), 60)
    admitted = [one.monotonic for one in sandbox.requests if one.status == 201]

    def in_window(request: ReceivedRequest) -> int:
        return sum(request.monotonic - limit.seconds < at <= request.monotonic for at in admitted)

    assert max(in_window(one) for one in sandbox.requests) == limit.requests
    refused = [one for one in sandbox.requests if one.status == 429]
    assert {in_window(one) for one in refused} == {limit.requests}


def test_the_window_slides() -> None:
    quota = Quota(RateLimit(2, 10.0))
    assert [quota.take(now) for now in (0.0, 9.0, 9.5)] == [True, True, False]
    assert quota.reset_in(9.5) == 0.5
    assert [quota.take(now) for now in (9.999, 10.0, 10.0, 18.999, 19.0)] == [False, True, False, False, True]


async def test_the_dispatchers_own_client_understands_it(start: Start) -> None:
    sandbox, _ = await start(rate_limit=RateLimit(1, 600.0))
    transport = open_transport(Network(), sandbox.url)
    vercel = Vercel(sandbox.url, transport, 60.0)
    body = Subject("icfg_1", "installation.updated").body()
    admitted, refused = [await vercel.send("icfg_1", body, SecretStr(TOKEN)) for _ in range(2)]
    await transport.aclose()
    assert (admitted.kind, admitted.rate_remaining) == (OutcomeKind.DELIVERED, 0)
    assert (refused.kind, refused.error_code) == (OutcomeKind.THROTTLED, "rate_limited")
    assert refused.retry_after is not None
    assert 300.0 < refused.retry_after <= 600.0
