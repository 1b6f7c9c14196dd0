"""What a transport is asked for, and what it gives."""

from collections.abc import Mapping
from typing import NamedTuple, Protocol


class Request(NamedTuple):
    """A POST that takes at most `timeout` seconds, from the connection to the end of the answer."""

    url: str
    headers: Mapping[str, str]
    body: bytes
    timeout: float
    limit: int
    """Bytes of the answer's body that are read."""
    read_success: bool = False
    """Whether any are read of a success (2xx)."""


class Reply(NamedTuple):
    """An answer as far as it came."""

    status: int
    headers: Mapping[str, str]
    """By lower-case name. Those that nobody here reads may be missing."""
    body: bytes
    """Its beginning, as it was sent; empty if it was not asked for."""


class Transport(Protocol):
    """The seam: what sends a request. Tests put `HttpxTransport(httpx.MockTransport(…))` here.

    A transport keeps connections alive, never follows a redirect, never decompresses, and takes no proxy and trusts no authority but
    those of its `Network`.
    """

    async def post(self, request: Request) -> Reply:
        """Sends it. Once the status is known, nothing that befalls the rest of the answer changes it.

        Raises TimeoutError, NotConnected or Broken (or asyncio.CancelledError). Only NotConnected proves that nothing was sent.
        """

    async def aclose(self) -> None:
        """Closes every connection; what is in flight ends as Broken."""


class NotConnected(Exception):
    """There was no connection, so nothing was sent. Its text says why."""


class Broken(Exception):
    """The connection broke, or what came is no HTTP: the request may have arrived. Its text says why."""


class TransportFailed(Exception):
    """A request came to no answer. Its text is one line for a person and holds no secret."""


def describe_failure(error: Exception, host: str, timeout: float) -> str:
    """One line for a person on why a request to `host` came to no answer."""
    reason = str(error) or type(error).__name__
    if isinstance(error, TimeoutError):
        return f"no answer from {host} within {timeout:g} s"
    if isinstance(error, NotConnected):
        return f"cannot connect to {host}: {reason}"
    return f"the connection to {host} broke, the request may have arrived: {reason}"
