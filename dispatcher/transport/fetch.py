"""Requests whose answer is read whatever its status: a form for OAuth token endpoints, a GET for a partner's own service."""

from collections.abc import Mapping
from urllib.parse import urlencode, urlsplit

from dispatcher.transport.exchange import Broken, NotConnected, Request, Transport, TransportFailed, describe_failure

_FORM_HEADERS = {
    "content-type": "application/x-www-form-urlencoded",
    "accept": "application/json",
    "accept-encoding": "identity",
}
_GET_HEADERS = {"accept": "application/json, text/plain;q=0.9, */*;q=0.1", "accept-encoding": "identity"}


async def post_form(
    transport: Transport, url: str, fields: Mapping[str, str], *, timeout: float, limit: int
) -> tuple[int, bytes]:
    """Posts `fields` and returns the status and the first `limit` bytes of the body. `timeout` is a deadline in seconds.

    Raises TransportFailed if there is no answer.
    """
    body = urlencode(fields).encode("ascii")
    return await _fetch(transport, Request(url, _FORM_HEADERS, body, timeout, limit, read_success=True))


async def get(
    transport: Transport, url: str, headers: Mapping[str, str], *, timeout: float, limit: int
) -> tuple[int, bytes]:
    """The same for a GET with these further headers."""
    sent = {**_GET_HEADERS, **headers}
    return await _fetch(transport, Request(url, sent, b"", timeout, limit, read_success=True, method="GET"))


async def _fetch(transport: Transport, request: Request) -> tuple[int, bytes]:
    try:
        reply = await transport.exchange(request)
    except (TimeoutError, NotConnected, Broken) as error:
        host = urlsplit(request.url).hostname or ""
        raise TransportFailed(describe_failure(error, host, request.timeout)) from None
    return reply.status, reply.body
