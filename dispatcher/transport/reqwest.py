"""The fast transport: pyreqwest, a client in Rust."""

import asyncio
from contextlib import suppress
from datetime import timedelta

# The extension imports this with its first error, and aborts the process if it cannot, for example without a free descriptor.
import pyreqwest.exceptions  # noqa: F401
from pyreqwest.client import ClientBuilder
from pyreqwest.proxy import ProxyBuilder
from pyreqwest.request import StreamRequest
from pyreqwest.response import Response

from dispatcher.transport.exchange import Broken, NotConnected, Reply, Request
from dispatcher.transport.network import NO_AUTHORITY, Network, UnusableNetwork

# All that is ever read of an answer's head: each name costs time.
_READ_OF_SUCCESS = ("date", "x-ratelimit-remaining", "x-ratelimit-reset", "x-vercel-id")
_READ = (*_READ_OF_SUCCESS, "content-encoding", "location", "retry-after")
_IDLE_CONNECTION = timedelta(seconds=30)


class PyreqwestTransport:
    """See `Transport`. The client has the same deadline, but answers that keep it busy can make it miss it by seconds."""

    def __init__(self, concurrency: int, network: Network) -> None:
        """Raises UnusableNetwork without certificate authorities."""
        self._network = network
        builder = ClientBuilder().http1_only().follow_redirects(False).referer(False)
        builder = builder.gzip(False).brotli(False).zstd(False).deflate(False)
        builder = builder.pool_max_idle_per_host(concurrency).pool_idle_timeout(_IDLE_CONNECTION)
        try:
            self._client = _on(network, builder).build()
        except ValueError:  # the client's own error, while it is put together
            raise UnusableNetwork(NO_AUTHORITY) from None

    async def post(self, request: Request) -> Reply:
        deadline = asyncio.get_running_loop().time() + request.timeout
        try:
            builder = self._client.post(request.url).headers(request.headers).body_bytes(request.body)
            builder = builder.timeout(timedelta(seconds=request.timeout))
            # Without this limit the head of an answer is held back until its first 64 KiB, or their end, are here.
            exchange = builder.streamed_read_buffer_limit(0).build_streamed()
            async with asyncio.timeout_at(deadline):
                answer = await exchange.__aenter__()
        except Exception as error:  # noqa: BLE001 - beside its own errors the extension raises ValueError and RuntimeError
            raise _translate(error, self._network.detour(request.url)) from None
        return await _read(exchange, answer, request, deadline)

    async def aclose(self) -> None:
        await self._client.close()


def _on(network: Network, builder: ClientBuilder) -> ClientBuilder:
    builder = builder.no_proxy()  # none that the client itself would find
    for certificate in network.further_authorities:
        builder = builder.add_root_certificate_der(certificate)
    if network.proxies.https or network.proxies.http:
        # Not the client's own reading of NO_PROXY: every client shall go the same way.
        builder = builder.proxy(ProxyBuilder.custom(lambda url: network.proxies.proxy_of(str(url))))
    return builder


async def _read(exchange: StreamRequest, answer: Response, request: Request, deadline: float) -> Reply:
    try:
        status = answer.status
        if 200 <= status < 300 and not request.read_success:
            return Reply(status, _copy_headers(answer, _READ_OF_SUCCESS), b"")
        return Reply(status, _copy_headers(answer, _READ), await _read_start(answer, request.limit, deadline))
    finally:
        with suppress(Exception):
            await exchange.__aexit__(None, None, None)


def _copy_headers(answer: Response, names: tuple[str, ...]) -> dict[str, str]:
    copied = {}
    for name in names:
        try:
            value = answer.get_header(name)
        except ValueError:  # bytes beyond ASCII: as good as absent
            continue
        if value is not None:
            copied[name] = value
    return copied


async def _read_start(answer: Response, limit: int, deadline: float) -> bytes:
    start = bytearray()
    with suppress(Exception):  # what came before it broke off is all there is
        async with asyncio.timeout_at(deadline):
            while len(start) < limit and (chunk := await answer.body_reader.read_chunk()) is not None:
                start += bytes(chunk)[: limit - len(start)]
    return bytes(start)


def _translate(error: Exception, detour: str) -> Exception:
    details = getattr(error, "details", None) or {}
    causes = [cause["message"] for cause in details.get("causes") or ()]
    spoken = [cause for cause in causes if not cause.startswith(("error sending request for url", "client error ("))]
    reason = ": ".join(spoken) or type(error).__name__
    if isinstance(error, TimeoutError):
        return TimeoutError(reason)
    if "client error (Connect)" in causes:
        return NotConnected(reason + detour)
    return Broken(reason)
