"""The HTTP edge: one POST, one reply, over the fastest client that is installed. Nothing else knows the HTTP libraries."""

from dispatcher.transport.form import post_form
from dispatcher.transport.reply import (
    Broken,
    NotConnected,
    Reply,
    Request,
    Transport,
    TransportFailed,
    describe_failure,
)

__all__ = [
    "Broken",
    "NotConnected",
    "Reply",
    "Request",
    "Transport",
    "TransportFailed",
    "describe_failure",
    "open_transport",
    "post_form",
]


def open_transport(concurrency: int, *, trust_env: bool = False) -> Transport:
    """The transport for at most `concurrency` requests in flight: pyreqwest, or httpx where that has no wheel.

    `trust_env`: use the proxy that HTTPS_PROXY, HTTP_PROXY and NO_PROXY name.
    """
    try:
        from dispatcher.transport.reqwest import PyreqwestTransport
    except ImportError:
        from dispatcher.transport.portable import PortableTransport

        return PortableTransport(trust_env=trust_env)
    return PyreqwestTransport(concurrency, trust_env=trust_env)
