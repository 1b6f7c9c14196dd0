"""One POST, one reply; no secret appears in errors or redacted text.

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


def open_transport(network: Network, url: str) -> Transport:
    """Opens the transport to the server at this URL: another client if a proxy leads there.

    Raises UnusableNetwork if there are no usable certificate authorities.
    """
    if network.proxies.proxy_of(url) is None:
        from dispatcher.transport.http1 import Http1Transport

        return Http1Transport(network)
    from dispatcher.transport.portable import PortableTransport

    return PortableTransport(network)
