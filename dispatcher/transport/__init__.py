"""One request, one reply; no secret appears in errors or redacted text.

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
    "open_general_transport",
    "open_transport",
    "post_form",
]


def open_transport(network: Network, url: str) -> Transport:
    """Opens the transport for many requests to the server at this URL.

    Raises UnusableNetwork if there are no usable certificate authorities.
    """
    if network.proxies.proxy_of(url) is not None:
        return open_general_transport(network)
    from dispatcher.transport.http1 import Http1Transport

    return Http1Transport(network)


def open_general_transport(network: Network) -> Transport:
    """Opens a transport for a few requests, also through a proxy. Raises the same error."""
    from dispatcher.transport.portable import PortableTransport

    return PortableTransport(network)
