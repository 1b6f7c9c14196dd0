"""The transport over httpx: through proxies, to token endpoints, and for tests."""

import asyncio
import logging
from collections import defaultdict
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import cast
from urllib.parse import urlsplit

import httpx

from dispatcher.transport.exchange import Broken, NotConnected, Reply, Request
from dispatcher.transport.network import Network

_IDLE_SECONDS = 30.0
"""How long an unused connection is kept."""


class HttpxTransport:
    """A `Transport` over a single transport of httpx."""

    def __init__(self, transport: httpx.AsyncBaseTransport) -> None:
        self._transport = transport

    async def exchange(self, request: Request) -> Reply:
        reply = None
        try:
            async with asyncio.timeout(request.timeout):
                response = await self._transport.handle_async_request(
                    httpx.Request(request.method, request.url, headers=request.headers, content=request.body)
                )
                reply = Reply(response.status_code, _copy_headers(response, request.read_headers), b"")
                try:
                    if request.read_success or not response.is_success:
                        reply = reply._replace(body=await _read_start(response, request.limit))
                    elif response.headers.get("content-length") == "0":
                        # httpcore keeps a connection only if the answer was read to its end.
                        await _read_start(response, 1)
                finally:
                    await response.aclose()
        except Exception as error:  # noqa: BLE001 - whatever it raises, there is no answer
            if reply is None:
                raise _translate(error) from None
        return reply

    async def aclose(self) -> None:
        await self._transport.aclose()


class PortableTransport:
    """A `Transport` over one httpx transport per request in flight: the time that httpx's own pool takes grows with their square."""

    def __init__(self, network: Network) -> None:
        """Raises UnusableNetwork if there are no usable certificate authorities."""
        # At DEBUG httpcore logs the headers of every answer, and an answer can echo the credential.
        logging.getLogger("httpcore").setLevel(logging.WARNING)
        self._network = network
        self._tls = network.tls_context()
        self._idle: defaultdict[str, list[HttpxTransport]] = defaultdict(list)

    async def exchange(self, request: Request) -> Reply:
        parts = urlsplit(request.url)
        idle = self._idle[f"{parts.scheme}://{parts.netloc}"]
        transport = idle.pop() if idle else self._open(request.url)
        try:
            return await transport.exchange(request)
        except NotConnected as error:
            raise NotConnected(f"{error}{self._network.detour(request.url)}") from None
        finally:
            idle.append(transport)

    def _open(self, url: str) -> HttpxTransport:
        limits = httpx.Limits(max_connections=1, keepalive_expiry=_IDLE_SECONDS)
        proxy = self._proxy_of(url)
        return HttpxTransport(httpx.AsyncHTTPTransport(verify=self._tls, trust_env=False, limits=limits, proxy=proxy))

    def _proxy_of(self, url: str) -> httpx.Proxy | None:
        address = self._network.proxies.proxy_of(url)
        if address is None:
            return None
        return httpx.Proxy(address, ssl_context=self._tls if address.startswith("https://") else None)

    async def aclose(self) -> None:
        transports = [transport for idle in self._idle.values() for transport in idle]
        self._idle.clear()
        for transport in transports:
            await transport.aclose()


def _copy_headers(response: httpx.Response, names: tuple[str, ...]) -> dict[str, str]:
    raw = ((name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in response.headers.raw)
    return {name: value for name, value in raw if name in names}


async def _read_start(response: httpx.Response, limit: int) -> bytes:
    """Returns the first `limit` bytes of a body, not decompressed; fewer if the connection breaks before."""
    start = bytearray()
    stream = cast("httpx.AsyncByteStream", response.stream)
    try:
        async with aclosing(cast("AsyncGenerator[bytes]", aiter(stream))) as chunks:
            async for chunk in chunks:
                start += chunk[: limit - len(start)]
                if len(start) >= limit:
                    break
    except httpx.TransportError:
        pass
    return bytes(start)


def _translate(error: Exception) -> Exception:
    reason = str(error) or type(error).__name__
    if isinstance(error, TimeoutError | httpx.TimeoutException):
        return TimeoutError(reason)
    # A proxy that refuses to connect has forwarded nothing.
    return NotConnected(reason) if isinstance(error, httpx.ConnectError | httpx.ProxyError) else Broken(reason)
