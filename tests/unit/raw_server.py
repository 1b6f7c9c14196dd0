"""Raw servers for the tests of the transports: one that plays any answer, and a proxy that tunnels to it."""

import asyncio
import base64
import contextlib
import itertools
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import trustme
from pydantic import SecretStr
from typing_extensions import override

from dispatcher.policy.outcome import Outcome
from dispatcher.transport import Transport
from dispatcher.vercel.client import Vercel

CANARY = "cAnArY-7f3a+9/tok=en"
BODY = b'{"event":{"type":"resource.updated","resourceId":"db_1"}}'
PROXY_CANARY = "s3cret-of-the-pr0xy"
LOGIN = f"me:{PROXY_CANARY}/@"
QUOTED_LOGIN = f"me:{PROXY_CANARY}%2F%40"
DELIVERED = b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n"
DEADLINE_SECONDS = 60.0
"""Seconds within which even a busy machine does what an idle one does at once."""
Step = bytes | float


class RawServer:
    """Handles connections until it is stopped."""

    port: int = 0

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Handles one connection. It is closed afterwards."""
        raise NotImplementedError

    @contextlib.asynccontextmanager
    async def listening(self, tls: ssl.SSLContext | None) -> AsyncIterator[None]:
        connections: set[asyncio.Task[None] | None] = set()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            connections.add(asyncio.current_task())
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await self.handle(reader, writer)
            await close(writer)

        opened = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
        self.port = opened.sockets[0].getsockname()[1]
        try:
            yield
        finally:
            opened.close()
            for connection in connections:
                assert connection is not None
                connection.cancel()
            await asyncio.gather(*filter(None, connections), return_exceptions=True)


@dataclass
class Server(RawServer):
    """Plays `answer` (bytes to send, seconds to wait) to each request, then closes the connection unless `keep_alive`."""

    answer: list[Step]
    keep_alive: bool = False
    scheme: str = "http"
    answered: int | None = None
    """With `keep_alive`: the number of requests after which a connection is closed when the next one comes."""
    connections: int = 0
    requests: list[bytes] = field(default_factory=list)
    bytes_sent: int = 0
    writer: asyncio.StreamWriter = field(init=False)

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}"

    @override
    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.writer = writer
        for number in itertools.count(1):
            self.requests.append(await read_request(reader))
            if self.answered is not None and number > self.answered:
                break
            await self.play(writer)
            if not self.keep_alive:
                break

    async def say(self, unasked: bytes) -> None:
        """Sends this over the newest connection, although no request has come, and waits until the kernel has delivered it."""
        self.writer.write(unasked)
        await self.writer.drain()

    async def hang_up(self) -> None:
        """Closes the newest connection, although no request has come."""
        await close(self.writer)

    async def play(self, writer: asyncio.StreamWriter) -> None:
        for step in self.answer:
            if isinstance(step, bytes):
                writer.write(step)
                await writer.drain()
                self.bytes_sent += len(step)
            else:
                await asyncio.sleep(step)


async def close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


async def read_request(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    lengths = [line.split(b":")[1] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    return head + await reader.readexactly(int(lengths[0]) if lengths else 0)


@contextlib.asynccontextmanager
async def running(
    *answer: Step, keep_alive: bool = False, answered: int | None = None, tls: ssl.SSLContext | None = None
) -> AsyncIterator[Server]:
    server = Server(list(answer), keep_alive, "https" if tls else "http", answered)
    async with server.listening(tls):
        yield server


async def send(transport: Transport, url: str, timeout: float = DEADLINE_SECONDS) -> Outcome:
    return await Vercel(url, transport, timeout).send("icfg_1", BODY, SecretStr(CANARY))


def answer(status: str, body: bytes = b"", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


@dataclass
class Proxy(RawServer):
    """A proxy for https: answers CONNECT requests and keeps their heads."""

    login: bytes | None = None
    """The user name and password that `Proxy-Authorization: Basic …` must contain."""
    heads: list[bytes] = field(default_factory=list)

    @override
    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        self.heads.append(head)
        if self.login is not None and b"basic " + base64.b64encode(self.login).lower() not in head.lower():
            writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
        else:
            await self.connect(head.split()[1].decode(), reader, writer)

    async def connect(self, address: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, _, port = address.rpartition(":")
        answers, requests = await asyncio.open_connection(host, int(port))
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        try:
            await asyncio.gather(copy(reader, requests), copy(answers, writer))
        finally:
            await close(requests)


async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while some := await reader.read(65_536):
        writer.write(some)
        await writer.drain()
    writer.close()


@contextlib.asynccontextmanager
async def proxying(login: bytes | None = None, tls: ssl.SSLContext | None = None) -> AsyncIterator[Proxy]:
    proxy = Proxy(login)
    async with proxy.listening(tls):
        yield proxy


def certified(authority: trustme.CA) -> ssl.SSLContext:
    """Returns the TLS context of a server at 127.0.0.1."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context
