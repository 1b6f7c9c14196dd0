"""Access to a request's connection, for faults that no answer can express."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager

from starlette.requests import Request
from typing_extensions import override
from uvicorn.protocols.http.h11_impl import H11Protocol


class Connection(H11Protocol):
    """Adds to each request's `state` its connection and the time at which its head arrived."""

    @override
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as the parent has it
        self.app_state = {**self.app_state, "connection": transport}
        super().connection_made(transport)

    @override
    def data_received(self, data: bytes) -> None:
        self.app_state.update(received_at=time.time(), monotonic=time.monotonic())
        super().data_received(data)


class InFlight:
    """The requests that have not been answered yet."""

    def __init__(self) -> None:
        self._connections: set[asyncio.Transport] = set()
        self._ended = False

    @contextmanager
    def hold(self, request: Request) -> Iterator[None]:
        """The request is in flight for the duration of the block."""
        connection = connection_of(request)
        self._connections.add(connection)
        if self._ended:
            connection.abort()
        try:
            yield
        finally:
            self._connections.discard(connection)

    def end(self) -> None:
        """Cuts the connections of all requests in flight, and of any that still arrive."""
        self._ended = True
        for connection in self._connections:
            connection.abort()


def connection_of(request: Request) -> asyncio.Transport:
    """The connection over which the request arrived."""
    connection: asyncio.Transport = request.state.connection
    return connection


async def stays_connected(request: Request, seconds: float | None) -> bool:
    """Whether the client is still connected after `seconds`; with None, returns only once it is not."""
    try:
        async with asyncio.timeout(seconds):
            while (await request.receive())["type"] != "http.disconnect":
                pass
    except TimeoutError:
        return True
    return False
