"""A request, its reply, and the ways in which a request can fail."""

from collections.abc import Mapping
from typing import NamedTuple, Protocol


class Request(NamedTuple):
    """A request: a POST unless `method` names another."""

    url: str
    headers: Mapping[str, str]
    body: bytes
    timeout: float
    """A deadline in seconds, from opening the connection to the end of the answer."""
    limit: int
    """The maximum number of bytes read of the answer's body."""
    read_headers: tuple[str, ...] = ()
    """The names, in lower case, of the headers read of the answer."""
    read_success: bool = False
    """Whether the body of a success (2xx) is read."""
    method: str = "POST"


class Reply(NamedTuple):
    """An answer, as much of it as arrived."""

    status: int
    headers: Mapping[str, str]
    """By lower-case name: those of the request's `read_headers` that the answer has. A value that is not ASCII may be missing."""
    body: bytes
    """Its beginning, still compressed if it was sent so; empty if it was not to be read."""


class Transport(Protocol):
    """Sends requests. The seam for tests: `HttpxTransport(httpx.MockTransport(…))` is one, too.

    A transport keeps connections alive, never follows a redirect, never decompresses, and uses no proxies and trusts no certificate
    authorities other than those of its `Network`.
    """

    async def exchange(self, request: Request) -> Reply:
        """Sends the request. Once the status has arrived, an error in the rest of the answer only shortens the body.

        Raises TimeoutError, NotConnected or Broken (or asyncio.CancelledError). Only NotConnected proves that nothing was sent.
        """

    async def aclose(self) -> None:
        """Closes every connection; requests in flight raise Broken."""


class NotConnected(Exception):
    """There was no connection, so nothing was sent. The text gives the reason."""


class Broken(Exception):
    """The connection broke, or the answer was not HTTP: the request may have arrived. The text gives the reason."""


class TransportFailed(Exception):
    """A request got no answer. The text is one line for a person and contains no secret."""


def describe_failure(error: Exception, host: str, timeout: float) -> str:
    """Returns one line for a person on why a request to `host` got no answer."""
    reason = str(error) or type(error).__name__
    if isinstance(error, TimeoutError):
        return f"no answer from {host} within {timeout:g} s"
    if isinstance(error, NotConnected):
        return f"cannot connect to {host}: {reason}"
    return f"the connection to {host} broke, the request may have arrived: {reason}"
