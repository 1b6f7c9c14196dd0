"""The transport to Vercel: HTTP/1.1 over connections of the event loop that are kept alive. Other threads have no part in it."""

import asyncio
import re
import ssl
from dataclasses import dataclass, field
from functools import lru_cache, partial
from urllib.parse import urlsplit

from dispatcher.transport.connection import Connection, Stale
from dispatcher.transport.exchange import NotConnected, Reply, Request
from dispatcher.transport.network import Network

IDLE_SECONDS = 30.0
"""How long an unused connection is kept."""
_MAX_HEADS = 4_096
_URL = re.compile(r"(https?://[!-.0->@-~]+)(/[!-~]*)?")


@dataclass(slots=True)
class _Server:
    """A server, and the connections to it that are free, the most recently used last."""

    host: str
    port: int
    tls: ssl.SSLContext | None
    address: str
    """As the header `Host` has it."""
    free: list[Connection] = field(default_factory=list)


class Http1Transport:
    """A `Transport` without proxies. Repeats a request only if a connection that was kept alive turns out to have been closed."""

    def __init__(self, network: Network) -> None:
        """Raises UnusableNetwork if there are no usable certificate authorities."""
        self._tls = network.tls_context()
        self._tls.set_alpn_protocols(["http/1.1"])
        self._servers: dict[str, _Server] = {}
        self._connections: set[Connection] = set()
        self._expiry: asyncio.TimerHandle | None = None
        self._head = lru_cache(maxsize=_MAX_HEADS)(self._make_head)

    async def exchange(self, request: Request) -> Reply:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + request.timeout
        server, message = self._prepare(request)
        connection = await self._take(server)
        if connection is not None:
            try:
                return await connection.send(message, request, deadline)
            except Stale:
                pass
        connection = await self._connect(loop, server, deadline)
        return await connection.send(message, request, deadline)

    async def aclose(self) -> None:
        for connection in list(self._connections):
            connection.close("the transport was closed")
        if self._expiry is not None:
            self._expiry.cancel()
        await asyncio.sleep(0)  # the loop closes the sockets

    def _prepare(self, request: Request) -> tuple[_Server, bytes]:
        """Returns the server and the bytes to send. Raises NotConnected if they cannot be a request of HTTP/1.1."""
        server, head = self._head(request.method, request.url, tuple(request.headers.items()))
        if request.body or request.method == "POST":
            return server, b"%b\r\ncontent-length: %d\r\n\r\n%b" % (head, len(request.body), request.body)
        return server, b"%b\r\n\r\n" % head

    def _make_head(self, method: str, url: str, headers: tuple[tuple[str, str], ...]) -> tuple[_Server, bytes]:
        """Returns the server, and what all requests with these headers to this URL begin with."""
        parts = _URL.fullmatch(url)
        if parts is None:
            raise NotConnected("its URL is not one of HTTP: it must be visible ASCII")
        origin, path = parts.groups(default="/")
        server = self._servers.get(origin) or self._add(origin)
        lines = [
            f"{method} {path} HTTP/1.1",
            f"host: {server.address}",
            *(f"{name}: {value}" for name, value in headers),
        ]
        try:
            head = "\r\n".join(lines).encode("ascii")
        except UnicodeEncodeError:
            raise NotConnected("a header of the request is not ASCII") from None
        if head.count(b"\n") != len(lines) - 1 or head.count(b"\r") != len(lines) - 1:
            raise NotConnected("a header of the request has a line break")
        return server, head

    def _add(self, origin: str) -> _Server:
        try:
            parts = urlsplit(origin)
            is_https = parts.scheme == "https"
            port = parts.port or (443 if is_https else 80)
        except ValueError:
            raise NotConnected("its URL has no valid port") from None
        tls = self._tls if is_https else None
        server = _Server(parts.hostname or "", port, tls, parts.netloc.rpartition("@")[2])
        self._servers[origin] = server
        return server

    async def _take(self, server: _Server) -> Connection | None:
        """Returns a free connection, None if there is none. One that the server has closed, or sent something over, is closed."""
        while server.free:
            connection = server.free.pop()
            while not connection.is_closed and connection.has_input:  # noqa: ASYNC110 (the loop's own next reading is awaited)
                await asyncio.sleep(0)  # the loop reads it; anything but TLS's own messages closes the connection
            if not connection.is_closed:
                return connection
        return None

    async def _connect(self, loop: asyncio.AbstractEventLoop, server: _Server, deadline: float) -> Connection:
        make = partial(Connection, loop, partial(self._keep, server), self._connections.discard)
        try:
            async with asyncio.timeout_at(deadline):
                _, connection = await loop.create_connection(make, server.host, server.port, ssl=server.tls)
        except TimeoutError:
            raise
        except ssl.SSLCertVerificationError as error:
            raise NotConnected(f"its certificate is not valid: {error.verify_message}") from None
        except (OSError, ValueError) as error:
            raise NotConnected(getattr(error, "strerror", None) or str(error)) from None
        self._connections.add(connection)
        return connection

    def _keep(self, server: _Server, connection: Connection) -> None:
        server.free.append(connection)
        if self._expiry is None:
            self._expiry = asyncio.get_running_loop().call_later(IDLE_SECONDS, self._close_idle)

    def _close_idle(self) -> None:
        """Closes the connections that have been free for long; the oldest come first."""
        loop, self._expiry = asyncio.get_running_loop(), None
        for server in self._servers.values():
            old = [one for one in server.free if one.free_since <= loop.time() - IDLE_SECONDS]
            server.free = [one for one in server.free if not one.is_closed and one not in old]
            for connection in old:
                connection.close("it was not used any more")
        if any(server.free for server in self._servers.values()):
            self._expiry = loop.call_later(IDLE_SECONDS, self._close_idle)
