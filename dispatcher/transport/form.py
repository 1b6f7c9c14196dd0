"""Posts a form, the request that OAuth token endpoints expect."""

from collections.abc import Mapping
from urllib.parse import urlencode, urlsplit

from dispatcher.transport.exchange import Broken, NotConnected, Request, Transport, TransportFailed, describe_failure

_FORM_HEADERS = {
    "content-type": "application/x-www-form-urlencoded",
    "accept": "application/json",
    "accept-encoding": "identity",
}


async def post_form(
    transport: Transport, url: str, fields: Mapping[str, str], *, timeout: float, limit: int
) -> tuple[int, bytes]:
    """Posts `fields` and returns the status and the first `limit` bytes of the body. `timeout` is a deadline in seconds.

    Raises TransportFailed if there is no answer.
    """
    request = Request(url, _FORM_HEADERS, urlencode(fields).encode("ascii"), timeout, limit, read_success=True)
    try:
        reply = await transport.post(request)
    except (TimeoutError, NotConnected, Broken) as error:
        raise TransportFailed(describe_failure(error, urlsplit(url).hostname or "", timeout)) from None
    return reply.status, reply.body
