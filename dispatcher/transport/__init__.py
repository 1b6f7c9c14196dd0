"""The HTTP edge: one POST, one reply, over the fastest client that is installed. Nothing else knows the HTTP libraries."""

from dispatcher.transport.exchange import (
    Broken,
    NotConnected,
    Reply,
    Request,
    Transport,
    TransportFailed,
    describe_failure,
)
from dispatcher.transport.form import post_form
from dispatcher.transport.network import Network, UnusableNetwork

__all__ = [
    "Broken",
    "Network",
    "NotConnected",
    "Reply",
    "Request",
    "Transport",
    "TransportFailed",
    "UnusableNetwork",
    "describe_failure",
    "open_transport",
    "post_form",
]


def open_transport(concurrency: int, network: Network) -> Transport:
    """The transport for at most `concurrency` requests in flight: pyreqwest, or httpx where that has no wheel.

    Raises UnusableNetwork without certificate authorities.
    """
    try:
        from dispatcher.transport.reqwest import PyreqwestTransport
    except ImportError:
        from dispatcher.transport.portable import PortableTransport

        return PortableTransport(network)
    return PyreqwestTransport(concurrency, network)
