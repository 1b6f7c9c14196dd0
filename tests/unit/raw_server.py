"""Raw servers for the tests of the transports: one that plays any answer, and a proxy that connects to it."""

import asyncio
import base64
import contextlib
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import trustme
from pydantic import SecretStr

from dispatcher.policy.outcome import Outcome
from dispatcher.transport import Transport
from dispatcher.vercel.client import Vercel

CANARY = "cAnArY-7f3a+9/tok=en"
BODY = b'{"event":{"type":"resource.updated","resourceId":"db_1"}}'
PROXY_CANARY = "s3cret-of-the-pr0xy"
LOGIN = f"me:{PROXY_CANARY}/@"
QUOTED_LOGIN = f"me:{PROXY_CANARY}%2F%40"
DELIVERED = b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n"
LONGEST = 60.0
"""Seconds until something that an idle machine does at once must have happened on a busy one."""
Step = bytes | float


@dataclass
class Server:
    """A raw server that plays `answer` (bytes to send, seconds to wait) to each request, then goes on or cuts."""

    answer: list[Step]
    keep_alive: bool = False
    scheme: str = "http"
    port: int = 0
    connections: int = 0
    requests: list[bytes] = field(default_factory=list)
    bytes_sent: int = 0
    tasks: set["asyncio.Task[None] | None"] = field(default_factory=set)

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.tasks.add(asyncio.current_task())
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while True:
                self.requests.append(await read_request(reader))
                await self.play(writer)
                if not self.keep_alive:
                    break
        await close(writer)

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
async def running(*answer: Step, keep_alive: bool = False, tls: ssl.SSLContext | None = None) -> AsyncIterator[Server]:
    server = Server(list(answer), keep_alive, "https" if tls else "http")
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0, ssl=tls)
    server.port = listening.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listening.close()
        for task in server.tasks:
            assert task is not None
            task.cancel()
        await asyncio.gather(*(task for task in server.tasks if task), return_exceptions=True)


async def send(transport: Transport, url: str, timeout: float = LONGEST) -> Outcome:
    return await Vercel(url, transport, timeout).send("icfg_1", BODY, SecretStr(CANARY))


def answer(status: str, body: bytes = b"", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


@dataclass
class Proxy:
    """A proxy for https: it connects to what it is asked for, and keeps the heads of what it was asked."""

    login: bytes | None = None
    """What `Proxy-Authorization: Basic …` must hold."""
    port: int = 0
    heads: list[bytes] = field(default_factory=list)
    tasks: set["asyncio.Task[None] | None"] = field(default_factory=set)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.tasks.add(asyncio.current_task())
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            head = await reader.readuntil(b"\r\n\r\n")
            self.heads.append(head)
            if self.login is not None and b"basic " + base64.b64encode(self.login).lower() not in head.lower():
                writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
            else:
                await self.connect(head.split()[1].decode(), reader, writer)
        await close(writer)

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
    listening = await asyncio.start_server(proxy.serve, "127.0.0.1", 0, ssl=tls)
    proxy.port = listening.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        listening.close()
        for task in proxy.tasks:
            assert task is not None
            task.cancel()
        await asyncio.gather(*(task for task in proxy.tasks if task), return_exceptions=True)


def certified(authority: trustme.CA) -> ssl.SSLContext:
    """For a server on this machine."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context
