"""How requests leave this machine, the same for every HTTP client: which certificate authorities are trusted, which proxy is used."""

import os
import re
import ssl
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

NO_AUTHORITY = (
    "no certificate authority is found, so that no server can be trusted: install ca-certificates, or correct SSL_CERT_FILE"
    " and SSL_CERT_DIR"
)
_HASHED = re.compile(r"[0-9a-f]{8}\.[0-9]+")
"""The file name by which OpenSSL finds a certificate in a directory."""


class UnusableNetwork(ValueError):
    """The certificate authorities, the CA file or the proxy cannot be used. The text is one line without secrets."""


class TrustStore(NamedTuple):
    """The certificate authorities of this machine: a file of certificates, and directories of them, separated by colons."""

    file: str | None
    directories: str | None

    def __str__(self) -> str:
        return " and ".join(filter(None, self))


@dataclass(frozen=True, slots=True)
class Proxies:
    """The URL of the proxy for each scheme, including its password, and the hosts to reach directly, as listed in NO_PROXY."""

    https: str | None = None
    http: str | None = None
    exceptions: str = ""

    def proxy_of(self, url: str) -> str | None:
        """Returns the proxy for this URL; None if its host is reached directly."""
        parts = urlsplit(url)
        proxy = self.https if parts.scheme == "https" else self.http
        is_exempt = urllib.request.proxy_bypass_environment  # type: ignore[attr-defined]  # typeshed lacks it
        return None if proxy is None or is_exempt(parts.netloc, {"no": self.exceptions}) else proxy


class Network:
    """Trusts the authorities of this machine (those of certifi if it has none) and of `ca_file`; optionally uses the environment's proxies.

    Raises UnusableNetwork if there are no authorities, if `ca_file` holds none, or if a proxy variable is not the URL of a proxy.
    """

    def __init__(self, ca_file: str | None = None, *, trust_env_proxy: bool = False) -> None:
        self.store = _find_store()
        self.proxies = _read_proxies() if trust_env_proxy else Proxies()
        self.further_authorities = () if ca_file is None else _read_ca_file(ca_file)
        """The certificates (DER) trusted in addition to those of the store."""
        if self.store is None:
            self.further_authorities += _read_certifi()

    def tls_context(self) -> ssl.SSLContext:
        """Returns the context for clients that use Python's TLS. Raises UnusableNetwork if the store cannot be read or is empty."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        try:
            if self.store is not None:
                context.load_verify_locations(*self.store)
            if self.further_authorities:
                context.load_verify_locations(cadata=b"".join(self.further_authorities))
        except OSError:
            raise UnusableNetwork(NO_AUTHORITY) from None
        return context

    def detour(self, url: str) -> str:
        """Returns the end of a message about a request to this URL: ` through the proxy …`, without the password, or nothing."""
        proxy = self.proxies.proxy_of(url)
        return "" if proxy is None else f" through the proxy {_mask_proxy(proxy)}"


def _read_certifi() -> tuple[bytes, ...]:
    """Returns the certificates (DER) of the authorities that certifi, a dependency of httpx, contains."""
    import httpx  # seldom needed here: most machines have a store

    return tuple(httpx.create_ssl_context(trust_env=False).get_ca_certs(binary_form=True))


def _find_store() -> TrustStore | None:
    """Looks where OpenSSL and rustls look. Raises UnusableNetwork if the environment names a place that holds nothing."""
    file, directories = os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")
    if file is not None or directories is not None:
        store = _existing(file, directories)
        if store is None:
            raise UnusableNetwork(NO_AUTHORITY)
        return store
    places = ssl.get_default_verify_paths()
    return _existing(places.cafile, places.capath)


def _existing(file: str | None, directories: str | None) -> TrustStore | None:
    file = file if file and Path(file).is_file() else None
    directories = directories if any(map(_holds_certificates, (directories or "").split(os.pathsep))) else None
    return TrustStore(file, directories) if file or directories else None


def _holds_certificates(directory: str) -> bool:
    try:
        return bool(directory) and any(map(_HASHED.fullmatch, os.listdir(directory)))
    except OSError:
        return False


def _read_ca_file(path: str) -> tuple[bytes, ...]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        if not Path(path).is_file():
            raise UnusableNetwork(f"DISPATCHER_CA_FILE names no file ({path}): mount it, or correct the path")
        context.load_verify_locations(path)
    except ssl.SSLError:
        raise UnusableNetwork(
            f"DISPATCHER_CA_FILE holds no certificate ({path}): write the authority's, as PEM"
        ) from None
    except OSError as error:
        raise UnusableNetwork(f"DISPATCHER_CA_FILE cannot be read ({path}): {error.strerror}") from None
    if not (authorities := context.get_ca_certs(binary_form=True)):
        raise UnusableNetwork(
            f"DISPATCHER_CA_FILE holds no certificate of an authority ({path}): write the authority's, not the server's"
        )
    return tuple(authorities)


def _read_proxies() -> Proxies:
    """Reads HTTPS_PROXY, HTTP_PROXY and NO_PROXY, in lower case first; ALL_PROXY is for schemes without a variable of their own."""
    variables = urllib.request.getproxies_environment()
    https, http = (_check_proxy(scheme, variables.get(scheme) or variables.get("all")) for scheme in ("https", "http"))
    return Proxies(https, http, variables.get("no", ""))


def _check_proxy(scheme: str, url: str | None) -> str | None:
    """Returns the URL, with a scheme. The error never shows it, since it may contain a password."""
    if not url:
        return None
    url = url if "://" in url else f"http://{url}"
    try:
        parts = urlsplit(url)
        is_proxy = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_proxy = False
    # Nothing may follow the host: otherwise part of the password may have been taken for the host.
    if not is_proxy or parts.path not in ("", "/") or parts.query or parts.fragment or not url.isprintable():
        raise UnusableNetwork(
            f"{scheme.upper()}_PROXY (or ALL_PROXY) is not the URL of a proxy: write one like http://user:password@proxy.example.com:3128,"
            " and in the user's name and the password %40 for @, %2F for /, %3F for ? and %23 for #"
        )
    return url


def _mask_proxy(url: str) -> str:
    """Returns the URL without user name and password; both may be secret."""
    scheme, _, rest = url.partition("://")
    secret, at, host = rest.rpartition("@")
    return f"{scheme}://{'***' if secret else ''}{at}{host}"
