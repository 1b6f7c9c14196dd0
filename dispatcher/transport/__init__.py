"""The HTTP edge: one POST, one reply, over the fastest client that is installed. Nothing else knows the HTTP libraries."""

from dispatcher.settings import SettingsError
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

    `trust_env`: use the proxy that HTTPS_PROXY, HTTP_PROXY and NO_PROXY name. Raises SettingsError without certificate authorities.
    """
    try:
        from dispatcher.transport.reqwest import PyreqwestTransport
    except ImportError:
        from dispatcher.transport.portable import PortableTransport

        return PortableTransport(trust_env=trust_env)
    try:
        return PyreqwestTransport(concurrency, trust_env=trust_env)
    except ValueError:  # the client's own error, while it is put together
        raise SettingsError(
            "no certificate authority is found, so that no server can be trusted: install ca-certificates, or correct SSL_CERT_FILE"
            " and SSL_CERT_DIR"
        ) from None
