"""The limits on clients of the ops port: a number of connections, each for a limited time."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from dispatcher.service import http_server
from dispatcher.service.endpoints import serving_ops
from dispatcher.service.ops_connection import DEADLINE_SECONDS, MAX_CONNECTIONS, OpsConnection

Client = tuple[asyncio.StreamReader, asyncio.StreamWriter]
REQUEST = b"GET /here HTTP/1.1\r\nHost: ops\r\n\r\n"
UPGRADE = b"GET /here HTTP/1.1\r\nHost: ops\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"
WAIT_SECONDS = 30
MORE_BYTES_THAN_BUFFERS_HOLD = 50_000_000


class Server:
    """The ops port, its clients, and the server's own view of them."""

    def __init__(self, port: int, server: http_server._Server) -> None:
        self.port = port
        self.server = server
        self.clients: list[Client] = []
        self.sent_much = False

    async def connect(self, sent: bytes = b"") -> Client:
        """Opens a connection, and sends this."""
        client = await asyncio.open_connection("127.0.0.1", self.port)
        client[1].write(sent)
        self.clients.append(client)
        return client

    @property
    def connections(self) -> set[OpsConnection]:
        """The open connections, as the server knows them."""
        return self.server.server_state.connections  # type: ignore[return-value]  # the class that the server was given


@asynccontextmanager
async def _serving(monkeypatch: pytest.MonkeyPatch, deadline_seconds: float) -> AsyncIterator[Server]:
    made: list[http_server._Server] = []

    async def here(_: Request) -> PlainTextResponse:
        return PlainTextResponse("here")

    async def much(_: Request) -> PlainTextResponse:
        watched.sent_much = True
        return PlainTextResponse("x" * MORE_BYTES_THAN_BUFFERS_HOLD)

    class Watched(http_server._Server):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments)  # type: ignore[arg-type]  # passed on unchanged
            made.append(self)

    monkeypatch.setattr(http_server, "_Server", Watched)
    app = Starlette(routes=[Route("/here", here), Route("/much", much)])
    async with serving_ops(app, "127.0.0.1", 0, deadline_seconds=deadline_seconds) as port:
        watched = Server(port, made[0])
        try:
            yield watched
        finally:
            for _, writer in watched.clients:
                writer.transport.abort()


@pytest.fixture
async def server(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Server]:
    """A server without a deadline, in effect."""
    async with _serving(monkeypatch, 3_600.0) as made:
        yield made


@pytest.fixture
async def hasty(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Server]:
    """A server with a short deadline."""
    async with _serving(monkeypatch, 0.1) as made:
        yield made


async def is_closed(client: Client) -> bool:
    """Whether the server closes the connection before long."""
    with suppress(ConnectionError):
        async with asyncio.timeout(WAIT_SECONDS):
            while await client[0].read(65_536):
                pass
    return True


async def answer(client: Client) -> bytes:
    """Reads the next answer to its end; returns its status line."""
    async with asyncio.timeout(WAIT_SECONDS):
        head = await client[0].readuntil(b"\r\n\r\n")
        await client[0].readexactly(len("here"))
    return head.partition(b"\r\n")[0]


async def until(condition: Callable[[], object]) -> None:
    """Returns once the condition holds."""
    async with asyncio.timeout(WAIT_SECONDS):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("sent", [b"", REQUEST[:20]], ids=["nothing", "half a head"])
async def test_a_connection_without_a_whole_head_is_closed(hasty: Server, sent: bytes) -> None:
    assert await is_closed(await hasty.connect(sent))


async def test_a_head_that_drips_gains_no_time(hasty: Server) -> None:
    client = await hasty.connect(REQUEST[:-2])
    closed = asyncio.create_task(is_closed(client))
    while not closed.done():
        client[1].write(b"X-More: 1\r\n")
        await asyncio.sleep(0.02)
    assert await closed


async def test_a_client_that_does_not_read_its_answer_is_closed(hasty: Server) -> None:
    await hasty.connect(b"GET /much HTTP/1.1\r\nHost: ops\r\n\r\n")
    await until(lambda: hasty.sent_much)
    await until(lambda: not hasty.connections)


async def test_each_answer_begins_a_new_deadline(server: Server) -> None:
    client = await server.connect()
    await until(lambda: server.connections)
    (connection,) = server.connections
    deadlines = [connection.deadline]
    for _ in range(2):
        client[1].write(REQUEST)
        assert await answer(client) == b"HTTP/1.1 200 OK"
        deadlines.append(connection.deadline)
    assert deadlines == sorted(set(deadlines))


async def test_many_silent_connections_do_not_keep_a_request_from_its_answer(server: Server) -> None:
    silent = [await server.connect() for _ in range(3 * MAX_CONNECTIONS)]
    await until(lambda: len(server.connections) == MAX_CONNECTIONS)
    assert await answer(await server.connect(REQUEST)) == b"HTTP/1.1 200 OK"
    assert len(server.connections) == MAX_CONNECTIONS
    for oldest in silent[: 2 * MAX_CONNECTIONS]:
        assert await is_closed(oldest)
    assert not silent[-1][0].at_eof()


async def test_there_are_no_websockets_whatever_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("uvicorn.protocols.websockets.auto.AutoWebSocketsProtocol", object)
    async with _serving(monkeypatch, DEADLINE_SECONDS) as server:
        assert await answer(await server.connect(UPGRADE)) == b"HTTP/1.1 200 OK"
