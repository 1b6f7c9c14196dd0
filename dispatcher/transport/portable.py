"""The portable transport: httpx, where pyreqwest has no wheel; and any other transport of httpx's, for tests."""

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

_IDLE_CONNECTION = 30.0


class HttpxTransport:
    """See `Transport`: over one transport of httpx's."""

    def __init__(self, transport: httpx.AsyncBaseTransport) -> None:
        self._transport = transport

    async def post(self, request: Request) -> Reply:
        reply = None
        try:
            async with asyncio.timeout(request.timeout):
                response = await self._transport.handle_async_request(
                    httpx.Request("POST", request.url, headers=request.headers, content=request.body)
                )
                reply = Reply(response.status_code, _plain_headers(response), b"")
                try:
                    if request.read_success or not response.is_success:
                        reply = reply._replace(body=await _read_start(response, request.limit))
                    elif response.headers.get("content-length") == "0":
                        # httpcore gives a connection up whose answer was not read to its end.
                        await _read_start(response, 1)
                finally:
                    await response.aclose()
        except Exception as error:  # noqa: BLE001 - whatever it raises, the request came to no answer
            if reply is None:
                raise _translate(error) from None
        return reply

    async def aclose(self) -> None:
        await self._transport.aclose()


class PortableTransport:
    """See `Transport`: httpx's own, one for each request in flight, for the time that its pool takes grows with their square."""

    def __init__(self, network: Network) -> None:
        """Raises UnusableNetwork without certificate authorities."""
        # At DEBUG httpcore writes the headers of every answer, and an answer may repeat the credential.
        logging.getLogger("httpcore").setLevel(logging.WARNING)
        self._network = network
        self._tls = network.tls_context()
        self._idle: defaultdict[str, list[HttpxTransport]] = defaultdict(list)

    async def post(self, request: Request) -> Reply:
        parts = urlsplit(request.url)
        idle = self._idle[f"{parts.scheme}://{parts.netloc}"]
        line = idle.pop() if idle else self._open(request.url)
        try:
            return await line.post(request)
        except NotConnected as error:
            raise NotConnected(f"{error}{self._network.detour(request.url)}") from None
        finally:
            idle.append(line)

    def _open(self, url: str) -> HttpxTransport:
        limits = httpx.Limits(max_connections=1, keepalive_expiry=_IDLE_CONNECTION)
        own = httpx.AsyncHTTPTransport(verify=self._tls, trust_env=False, limits=limits, proxy=self._proxy_of(url))
        return HttpxTransport(own)

    def _proxy_of(self, url: str) -> httpx.Proxy | None:
        address = self._network.proxies.proxy_of(url)
        if address is None:
            return None
        return httpx.Proxy(address, ssl_context=self._tls if address.startswith("https://") else None)

    async def aclose(self) -> None:
        lines = [line for idle in self._idle.values() for line in idle]
        self._idle.clear()
        for line in lines:
            await line.aclose()


def read_certifi() -> tuple[bytes, ...]:
    """The certificates (DER) of the authorities that httpx brings along."""
    return tuple(httpx.create_ssl_context(trust_env=False).get_ca_certs(binary_form=True))


def _plain_headers(response: httpx.Response) -> dict[str, str]:
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in response.headers.raw}


async def _read_start(response: httpx.Response, limit: int) -> bytes:
    """The first `limit` bytes of a body as it was sent, or what came of them before it broke off."""
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
    # A proxy that refuses to connect has sent nothing on.
    return NotConnected(reason) if isinstance(error, httpx.ConnectError | httpx.ProxyError) else Broken(reason)
