"""Sandboxes, and a client that can also send bad requests."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

import httpx
import pytest
import pytest_asyncio

from dispatcher.sandbox import Sandbox

TOKEN = "t0ken-1"
RESOURCE_UPDATED = {"type": "resource.updated", "resourceId": "db_1"}
RESOURCE = {"event": RESOURCE_UPDATED}


class Client:
    """Posts to one sandbox; the defaults make a valid request."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self.http = http

    async def post(
        self,
        body: object = RESOURCE,
        installation: str = "icfg_1",
        *,
        path: str | None = None,
        token: str = TOKEN,
        **headers: str,
    ) -> httpx.Response:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        sent = {"authorization": f"Bearer {token}", "content-type": "application/json"}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.http.post(
            path or f"/v1/installations/{installation}/events",
            content=content,
            headers={name: value for name, value in sent.items() if value},
        )


Both = tuple[Sandbox, Client]
Start = Callable[..., Awaitable[Both]]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Starts sandboxes, which end with the test: `sandbox, client = await start(rate_limit=None)`."""
    async with AsyncExitStack() as stack:
        yield partial(_enter, stack)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def shared() -> AsyncIterator[Both]:
    """One sandbox without a rate limit, in the session's event loop, for the many tests that need no state of their own."""
    async with AsyncExitStack() as stack:
        yield await _enter(stack, rate_limit=None)


async def _enter(stack: AsyncExitStack, **options: Any) -> Both:
    sandbox = await stack.enter_async_context(Sandbox(**options))
    http = httpx.AsyncClient(base_url=sandbox.url, timeout=60, trust_env=False)
    return sandbox, Client(await stack.enter_async_context(http))


async def eventually(condition: Callable[[], object], seconds: float = 60.0) -> None:
    """Returns as soon as the condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        await asyncio.sleep(0.005)
