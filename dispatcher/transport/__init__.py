"""One request, one reply, over the fastest HTTP client that is installed; no secret appears in errors or redacted text.

No other package imports the HTTP libraries.
"""

from dispatcher.transport.exchange import (
    Broken,
    NotConnected,
    Reply,
    Request,
    Transport,
    TransportFailed,
    describe_failure,
)
from dispatcher.transport.fetch import get, post_form
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
    "get",
    "open_brief_transport",
    "open_transport",
    "post_form",
]


def open_transport(concurrency: int, network: Network) -> Transport:
    """Opens a transport for up to `concurrency` requests in flight: over pyreqwest, or over httpx where pyreqwest has no wheel.

    Raises UnusableNetwork if there are no usable certificate authorities.
    """
    try:
        from dispatcher.transport.reqwest import PyreqwestTransport
    except ImportError:
        from dispatcher.transport.portable import PortableTransport

        return PortableTransport(network)
    return PyreqwestTransport(concurrency, network)


def open_brief_transport(network: Network) -> Transport:
    """Opens a transport for a process that ends right after its requests: threads of pyreqwest that still run then can abort it.

    Raises UnusableNetwork if there are no usable certificate authorities.
    """
    from dispatcher.transport.portable import PortableTransport

    return PortableTransport(network)
