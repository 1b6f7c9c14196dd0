"""Serves an application beside other work in the same event loop, and leaves the process's signal handlers alone."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from typing_extensions import override


class PortUnavailable(Exception):
    """The port cannot be listened on; the message says where and why."""


DATE_SECONDS = 1.0
"""The header `Date` may be this old."""


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._ended = asyncio.Event()

    def end(self) -> None:
        self.should_exit = True
        self._ended.set()

    @override
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    @override
    async def main_loop(self) -> None:
        """Does what uvicorn's does ten times a second, which costs an idle process more than its work."""
        while not await self.on_tick(0):
            with suppress(TimeoutError):
                async with asyncio.timeout(DATE_SECONDS):
                    await self._ended.wait()


@asynccontextmanager
async def serving(app: ASGIApp, host: str, port: int, **options: Any) -> AsyncIterator[int]:
    """Listens for the duration of the block and yields the port, which the system chooses if `port` is 0. Raises PortUnavailable.

    `options` are passed to uvicorn.
    """
    with listen(host, port) as listening:
        async with serving_on(listening, app, **options):
            yield int(listening.getsockname()[1])


@asynccontextmanager
async def serving_on(listening: socket.socket, app: ASGIApp, **options: Any) -> AsyncIterator[None]:
    """Does the same on a socket that listens already."""
    server = _Server(uvicorn.Config(app, log_config=None, access_log=False, lifespan="off", **options))
    serve = asyncio.create_task(server.serve([listening]))
    try:
        yield
    finally:
        server.end()
        await serve


def listen(host: str, port: int) -> socket.socket:
    """Returns a socket that listens; the system chooses its port if `port` is 0. Raises PortUnavailable."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listening = socket.create_server((host, port), family=family, backlog=2_048)
    except OSError as error:
        why = (error.strerror or str(error)).partition(" (")[0]
        raise PortUnavailable(f"cannot listen on {host} port {port}: {why}") from None
    # asyncio does this only for sockets that it creates itself. Without it an answer waits 40 ms for the client's acknowledgement.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening
