"""The fast transport: over pyreqwest, an HTTP client in Rust."""

import asyncio
from contextlib import suppress
from datetime import timedelta

# The extension imports this on its first error and aborts the process if the import fails, such as without a free file descriptor.
import pyreqwest.exceptions  # noqa: F401
from pyreqwest.client import ClientBuilder
from pyreqwest.proxy import ProxyBuilder
from pyreqwest.request import StreamRequest
from pyreqwest.response import Response

from dispatcher.transport.exchange import Broken, NotConnected, Reply, Request
from dispatcher.transport.network import NO_AUTHORITY, Network, UnusableNetwork

_IDLE_TIME = timedelta(seconds=30)
"""How long an unused connection is kept."""


class PyreqwestTransport:
    """A `Transport` over pyreqwest. The client enforces the deadline, too, but an answer that keeps it busy can delay that by seconds."""

    def __init__(self, concurrency: int, network: Network) -> None:
        """Raises UnusableNetwork if there are no usable certificate authorities."""
        self._network = network
        builder = ClientBuilder().http1_only().follow_redirects(False).referer(False)
        builder = builder.gzip(False).brotli(False).zstd(False).deflate(False)
        builder = builder.pool_max_idle_per_host(concurrency).pool_idle_timeout(_IDLE_TIME)
        try:
            self._client = _apply(network, builder).build()
        except ValueError:  # what the builder raises without certificate authorities
            raise UnusableNetwork(NO_AUTHORITY) from None

    async def exchange(self, request: Request) -> Reply:
        deadline = asyncio.get_running_loop().time() + request.timeout
        try:
            builder = self._client.request(request.method, request.url)
            builder = builder.headers(request.headers).body_bytes(request.body)
            builder = builder.timeout(timedelta(seconds=request.timeout))
            # By default the client returns only after the first 64 KiB of the body, or its end, have arrived.
            exchange = builder.streamed_read_buffer_limit(0).build_streamed()
            async with asyncio.timeout_at(deadline):
                answer = await exchange.__aenter__()
        except Exception as error:  # noqa: BLE001 - the extension raises ValueError and RuntimeError beside its own errors
            raise _translate(error, self._network.detour(request.url)) from None
        return await _read(exchange, answer, request, deadline)

    async def aclose(self) -> None:
        await self._client.close()


def _apply(network: Network, builder: ClientBuilder) -> ClientBuilder:
    builder = builder.no_proxy()  # ignore the proxies that the client itself would find
    for certificate in network.further_authorities:
        builder = builder.add_root_certificate_der(certificate)
    if network.proxies.https or network.proxies.http:
        # Not by the client's own reading of NO_PROXY: both transports must use the same route.
        builder = builder.proxy(ProxyBuilder.custom(lambda url: network.proxies.proxy_of(str(url))))
    return builder


async def _read(exchange: StreamRequest, answer: Response, request: Request, deadline: float) -> Reply:
    try:
        status, headers = answer.status, _copy_headers(answer, request.read_headers)
        if 200 <= status < 300 and not request.read_success:
            return Reply(status, headers, b"")
        return Reply(status, headers, await _read_start(answer, request.limit, deadline))
    finally:
        with suppress(Exception):
            await exchange.__aexit__(None, None, None)


def _copy_headers(answer: Response, names: tuple[str, ...]) -> dict[str, str]:
    copied = {}
    for name in names:
        try:
            value = answer.get_header(name)
        except ValueError:  # not ASCII: treated as absent
            continue
        if value is not None:
            copied[name] = value
    return copied


async def _read_start(answer: Response, limit: int, deadline: float) -> bytes:
    start = bytearray()
    with suppress(Exception):  # the body ends where the connection broke
        async with asyncio.timeout_at(deadline):
            while len(start) < limit and (chunk := await answer.body_reader.read_chunk()) is not None:
                start += bytes(chunk)[: limit - len(start)]
    return bytes(start)


def _translate(error: Exception, detour: str) -> Exception:
    details = getattr(error, "details", None) or {}
    causes = [cause["message"] for cause in details.get("causes") or ()]
    telling = [cause for cause in causes if not cause.startswith(("error sending request for url", "client error ("))]
    reason = ": ".join(telling) or type(error).__name__
    if isinstance(error, TimeoutError):
        return TimeoutError(reason)
    if "client error (Connect)" in causes:
        return NotConnected(reason + detour)
    return Broken(reason)
