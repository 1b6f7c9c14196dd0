"""The sandbox as a server: records every request and applies the scripted faults."""

import asyncio
import secrets
import signal
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from types import TracebackType
from typing import Self

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from dispatcher.policy.hosts import is_local
from dispatcher.policy.rate_window import RateLimit
from dispatcher.sandbox.connection import Connection, InFlight, connection_of, stays_connected
from dispatcher.sandbox.control import Control
from dispatcher.sandbox.endpoint import Endpoint
from dispatcher.sandbox.faults import GARBAGE, Fault, Script
from dispatcher.sandbox.received import (
    ReceivedRequest,
    bearer_token,
    fingerprint,
    installation_in,
    path_of,
    read_json,
    resource_in,
)
from dispatcher.service.http_server import serving

RATE_LIMIT = RateLimit(60, 60.0)
"""Vercel's own: "Installation event create per minute"."""
KEEP_ALIVE_SECONDS = 75
"""For an idle connection."""
MAX_REQUESTS = 1_000_000
"""The number of requests that are kept, at about 1 KB each; when it is reached, the oldest tenth is dropped."""


class Sandbox:
    """A stand-in for Vercel at `url`, within `async with`, which raises PortUnavailable.

    `port` 0 takes a free one. `tokens` are the valid bearer tokens, None for any; they may be replaced at any time. `rate_limit`
    applies to each installation; None switches it off. `requests` are those received so far, at most `max_requests`, in the order
    in which they were judged; the list may be cleared.
    """

    def __init__(
        self,
        port: int = 0,
        host: str = "127.0.0.1",
        tokens: frozenset[str] | None = None,
        rate_limit: RateLimit | None = RATE_LIMIT,
        *,
        max_requests: int = MAX_REQUESTS,
    ) -> None:
        self._address = (host, port)
        self._endpoint = Endpoint(tokens, rate_limit)
        self._max_requests = max_requests
        self._script = Script()
        self._in_flight = InFlight()
        self._stack = AsyncExitStack()
        self.requests: list[ReceivedRequest] = []
        self.url = ""

    @property
    def tokens(self) -> frozenset[str] | None:
        """The valid bearer tokens; None for any."""
        return self._endpoint.tokens

    @tokens.setter
    def tokens(self, tokens: frozenset[str] | None) -> None:
        self._endpoint.tokens = tokens

    @property
    def faults(self) -> tuple[Fault, ...]:
        """The scripted faults that are not used up; `times` is the number of requests left."""
        return tuple(self._script.faults)

    def script(self, *faults: Fault) -> None:
        """Adds faults. If several match a request, the one that was scripted first is applied."""
        self._script.faults.extend(faults)

    def clear(self) -> None:
        """Removes all scripted faults."""
        self._script.faults.clear()

    async def __aenter__(self) -> Self:
        host, port = self._address
        app = Starlette(routes=Control(self.requests, self._script, local=is_local(host)).routes())
        app.router.default = self._receive
        options = {"http": Connection, "ws": "none", "server_header": False, "timeout_keep_alive": KEEP_ALIVE_SECONDS}
        port = await self._stack.enter_async_context(serving(app, host, port, **options))
        self._stack.callback(self._in_flight.end)
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def _receive(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        with self._in_flight.hold(request), suppress(ClientDisconnect):
            answer, fault = self._judge(request, await read_json(request))
            is_waiting = fault is None or await _apply(request, fault)
            if is_waiting and answer is not None:
                await answer(scope, receive, send)

    def _judge(self, request: Request, body: object) -> tuple[Response | None, Fault | None]:
        """Records the request; returns the answer, None if there is none to send, and the fault to apply."""
        path = path_of(request)
        installation_id = installation_in(path)
        fault = self._script.next(installation_id, resource_in(body))
        if fault is None or fault.lets_through:
            answer: Response | None = self._endpoint.judge(request, installation_id, body)
        else:
            answer = fault.answer()
        token, vercel_id = bearer_token(request), _vercel_id(request.state.received_at)
        if answer is not None:
            answer.headers["X-Vercel-Id"] = vercel_id
        if len(self.requests) >= self._max_requests:
            del self.requests[: self._max_requests // 10]
        self.requests.append(
            ReceivedRequest(
                received_at=request.state.received_at,
                monotonic=request.state.monotonic,
                method=request.method,
                path=path,
                installation_id=installation_id,
                body=body,
                token=fingerprint(token) if token else None,
                vercel_id=vercel_id,
                status=answer.status_code if answer else None,
                fault=fault.name if fault else None,
            )
        )
        return answer, fault


async def serve(
    host: str, port: int, tokens: frozenset[str] | None, rate_limit: RateLimit | None, ready: Callable[[str], None]
) -> None:
    """Runs a sandbox until SIGINT or SIGTERM; calls `ready` with its URL. Raises PortUnavailable."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with Sandbox(port, host, tokens, rate_limit) as sandbox:
        ready(sandbox.url)
        await stop.wait()


async def _apply(request: Request, fault: Fault) -> bool:
    """Applies the part of the fault that is not an answer; returns whether the client is still waiting for one."""
    connection = connection_of(request)
    if fault.delay and not await stays_connected(request, fault.delay):
        return False
    if fault.cut:
        connection.abort()
    elif fault.garbage:
        connection.write(GARBAGE)
        connection.close()
    return not (fault.cut or fault.garbage or fault.hang) or await stays_connected(request, None)


def _vercel_id(now: float) -> str:
    return f"sandbox::{secrets.token_hex(3)}-{now * 1_000:.0f}-{secrets.token_hex(6)}"
