"""The HTTP edge: one `httpx.Request` in, one streamed `httpx.Response` out, over the fastest client that is installed.

Both transports say how long a body is, keep connections alive, never follow a redirect, never decompress, take a proxy
from the environment only when asked, and raise nothing but `httpx.TransportError` (or `asyncio.CancelledError`). Neither
has timeouts of its own: a deadline over a whole request belongs around the call. Only `httpx.ConnectError` proves that nothing was sent.
"""

import asyncio
import logging
import urllib.request
from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from datetime import timedelta
from typing import TYPE_CHECKING, cast
from urllib.parse import urlencode

import httpx

if TYPE_CHECKING:
    from pyreqwest.client import Client
    from pyreqwest.request import StreamRequest
    from pyreqwest.response import Response

# All that is ever read of an answer's head: copying the rest costs more than the whole check of an answer.
_HEADERS_READ = (
    "content-encoding",
    "content-length",
    "content-type",
    "date",
    "location",
    "retry-after",
    "x-ratelimit-remaining",
    "x-ratelimit-reset",
    "x-vercel-id",
)
_SET_BY_PYREQWEST = frozenset({b"host", b"content-length"})
_IDLE_CONNECTION = timedelta(seconds=30)
_FORM_HEADERS = {
    "content-type": "application/x-www-form-urlencoded",
    "accept": "application/json",
    "accept-encoding": "identity",
}


Transport = httpx.AsyncBaseTransport
"""The seam: what sends a request. Tests put `httpx.MockTransport` here."""


class TransportFailed(Exception):
    """A request came to no answer. Its text is one line for a person and holds no secret."""


def open_transport(concurrency: int, *, trust_env: bool = False) -> httpx.AsyncBaseTransport:
    """The transport for at most `concurrency` requests in flight: pyreqwest, or httpx's own where that has no wheel.

    `trust_env`: use the proxy that HTTPS_PROXY, HTTP_PROXY and NO_PROXY name.
    """
    try:
        from pyreqwest.client import ClientBuilder
    except ImportError:
        return PortableTransport(trust_env=trust_env)
    builder = ClientBuilder().http1_only().follow_redirects(False).referer(False)
    builder = builder.gzip(False).brotli(False).zstd(False).deflate(False)
    builder = builder.pool_max_idle_per_host(concurrency).pool_idle_timeout(_IDLE_CONNECTION)
    return PyreqwestTransport((builder if trust_env else builder.no_proxy()).build())


class PyreqwestTransport(httpx.AsyncBaseTransport):
    """A thin bridge to pyreqwest. Of an answer's headers it passes on those that this project reads."""

    def __init__(self, client: "Client") -> None:
        self._client = client

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        headers = [
            (name.decode("latin-1"), value.decode("latin-1"))
            for name, value in request.headers.raw
            if name.lower() not in _SET_BY_PYREQWEST
        ]
        try:
            builder = self._client.request(request.method, str(request.url))
            builder = builder.headers(headers).body_bytes(await _body(request))
            # Without this limit the head of an answer is held back until its first 64 KiB, or their end, are here.
            exchange = builder.streamed_read_buffer_limit(0).build_streamed()
            answer = await exchange.__aenter__()
        except Exception as error:  # noqa: BLE001 - beside its own errors the extension raises ValueError and RuntimeError
            raise _translate(error) from None
        return httpx.Response(answer.status, headers=_copy_headers(answer), stream=_PyreqwestBody(exchange, answer))

    async def aclose(self) -> None:
        await self._client.close()


class _PyreqwestBody(httpx.AsyncByteStream):
    def __init__(self, exchange: "StreamRequest", answer: "Response") -> None:
        self._exchange = exchange
        self._answer = answer

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            while (chunk := await self._answer.body_reader.read_chunk()) is not None:
                yield bytes(chunk)
        except Exception as error:  # noqa: BLE001 - as above
            raise _translate(error) from None

    async def aclose(self) -> None:
        await self._exchange.__aexit__(None, None, None)


async def _body(request: httpx.Request) -> bytes:
    if isinstance(request.stream, httpx.SyncByteStream):
        return b"".join(request.stream)
    return await request.aread()


def _copy_headers(answer: "Response") -> list[tuple[str, str]]:
    copied = []
    for name in _HEADERS_READ:
        try:
            value = answer.get_header(name)
        except ValueError:  # bytes beyond ASCII: as good as absent
            continue
        if value is not None:
            copied.append((name, value))
    return copied


def _translate(error: Exception) -> httpx.TransportError:
    details = getattr(error, "details", None) or {}
    causes = [cause["message"] for cause in details.get("causes") or ()]
    spoken = [cause for cause in causes if not cause.startswith(("error sending request for url", "client error ("))]
    reason = ": ".join(spoken) or type(error).__name__
    if "client error (Connect)" in causes:
        return httpx.ConnectError(reason)
    if isinstance(error, TimeoutError):
        return httpx.ReadTimeout(reason)
    return httpx.RemoteProtocolError(reason)


class PortableTransport(httpx.AsyncBaseTransport):
    """httpx's own transport, one for each request in flight: the time that its pool takes grows with their square."""

    def __init__(self, *, trust_env: bool = False) -> None:
        # At DEBUG httpcore writes the headers of every answer, and an answer may repeat the credential.
        logging.getLogger("httpcore").setLevel(logging.WARNING)
        self._trust_env = trust_env
        self._tls = httpx.create_ssl_context(trust_env=trust_env)
        self._idle: defaultdict[str, list[httpx.AsyncHTTPTransport]] = defaultdict(list)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if "content-length" not in request.headers:
            request.headers["content-length"] = str(len(await _body(request)))
        idle = self._idle[f"{request.url.scheme}://{request.url.netloc.decode('ascii')}"]
        line = idle.pop() if idle else self._open(request.url)
        try:
            response = await line.handle_async_request(request)
        except BaseException:
            idle.append(line)
            raise
        response.stream = _PortableBody(response, line, idle)
        return response

    def _open(self, url: httpx.URL) -> httpx.AsyncHTTPTransport:
        proxy = _environment_proxy(url) if self._trust_env else None
        limits = httpx.Limits(max_connections=1, keepalive_expiry=_IDLE_CONNECTION.total_seconds())
        return httpx.AsyncHTTPTransport(verify=self._tls, trust_env=False, limits=limits, proxy=proxy)

    async def aclose(self) -> None:
        lines = [line for idle in self._idle.values() for line in idle]
        self._idle.clear()
        for line in lines:
            await line.aclose()


class _PortableBody(httpx.AsyncByteStream):
    def __init__(
        self, response: httpx.Response, line: httpx.AsyncHTTPTransport, idle: list[httpx.AsyncHTTPTransport]
    ) -> None:
        self._body = cast("httpx.AsyncByteStream", response.stream)
        self._unread_and_empty = response.headers.get("content-length") == "0"
        self._line = line
        self._idle = idle

    async def __aiter__(self) -> AsyncIterator[bytes]:
        self._unread_and_empty = False  # httpcore never returns from reading a body a second time
        async for chunk in self._body:
            yield chunk

    async def aclose(self) -> None:
        try:
            if self._unread_and_empty:  # httpcore gives a connection up whose answer was not read to its end
                async for _ in self._body:
                    pass
            await self._body.aclose()
        finally:
            self._idle.append(self._line)


def _environment_proxy(url: httpx.URL) -> str | None:
    return None if urllib.request.proxy_bypass(url.host) else urllib.request.getproxies().get(url.scheme)


async def read_start(response: httpx.Response, limit: int) -> bytes:
    """The first `limit` bytes of a body as it was sent, or what came of them before it broke off."""
    start = bytearray()
    try:
        async with aclosing(
            cast("AsyncGenerator[bytes]", aiter(cast("httpx.AsyncByteStream", response.stream)))
        ) as chunks:
            async for chunk in chunks:
                start += chunk[: limit - len(start)]
                if len(start) >= limit:
                    break
    except httpx.TransportError:
        pass
    return bytes(start)


def describe_failure(error: Exception, host: str) -> str:
    """One line for a person on why a request to `host` came to no answer."""
    reason = str(error) or type(error).__name__
    if isinstance(error, httpx.ConnectError):
        return f"cannot connect to {host}: {reason}"
    return f"the connection to {host} broke, the request may have arrived: {reason}"


async def post_form(
    transport: httpx.AsyncBaseTransport, url: str, fields: Mapping[str, str], *, timeout: float, limit: int
) -> tuple[int, bytes]:
    """Posts a form and gives the status and the first `limit` bytes of the body, all within `timeout` seconds.

    Raises TransportFailed when there is no answer.
    """
    request = httpx.Request("POST", url, headers=_FORM_HEADERS, content=urlencode(fields).encode("ascii"))
    try:
        async with asyncio.timeout(timeout):
            response = await transport.handle_async_request(request)
            try:
                return response.status_code, await read_start(response, limit)
            finally:
                await response.aclose()
    except TimeoutError:
        raise TransportFailed(f"no answer from {request.url.host} within {timeout:g} s") from None
    except (httpx.TransportError, OSError) as error:
        raise TransportFailed(describe_failure(error, request.url.host)) from None
