"""Checks Vercel's address: opens a connection, with TLS and through the proxy if there is one, and sends nothing over it."""

import base64
import ssl
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from urllib.parse import SplitResult, unquote, urlsplit

from dispatcher.inspection.checks.finding import Finding, ok, problem, warning
from dispatcher.settings.settings import Settings
from dispatcher.transport import Network

TIMEOUT_SECONDS = 5.0
VERCEL_HOST = "api.vercel.com"


def check_base_url(settings: Settings, network: Network, timeout: float = TIMEOUT_SECONDS) -> list[Finding]:
    """Whether the address is safe, and reachable within `timeout` seconds.

    Raises UnusableNetwork if the certificate authorities cannot be loaded.
    """
    url = urlsplit(settings.vercel_base_url)
    is_safe = url.scheme.lower() == "https"
    findings: list[Finding] = []
    if not is_safe:
        findings.append(warning("base_url", f"{settings.vercel_base_url} is not https: tokens are sent unencrypted"))
    if url.hostname == VERCEL_HOST and url.path.strip("/"):
        findings.append(
            problem("base_url", f"DISPATCHER_VERCEL_BASE_URL must end after {VERCEL_HOST}: the path is added to it")
        )
    return [*findings, _try(url, network, timeout)]


def _try(url: SplitResult, network: Network, timeout: float) -> Finding:
    is_safe = url.scheme.lower() == "https"
    host, port = url.hostname or "", url.port or (443 if is_safe else 80)
    detour, proxy = network.detour(url.geturl()), urlsplit(network.proxies.proxy_of(url.geturl()) or "")
    if proxy.hostname and not (is_safe and proxy.scheme == "http"):
        return ok(
            "base_url",
            f"not tried{detour}: through a proxy, only https:// behind an http:// proxy can be tried without sending a request",
        )
    connection = HTTPConnection(host, port, timeout=timeout)
    if is_safe:
        address = (proxy.hostname, proxy.port or 80) if proxy.hostname else (host, port)
        connection = HTTPSConnection(*address, timeout=timeout, context=network.tls_context())
    if proxy.hostname:
        connection.set_tunnel(host, port, _authorize(proxy))
    try:
        connection.connect()
    except (OSError, HTTPException) as error:
        return problem(
            "base_url", f"{host} port {port} cannot be reached{detour}: {_why(error, timeout, is_detour=bool(detour))}"
        )
    finally:
        connection.close()
    return ok("base_url", f"{host} port {port} answers{detour}")


def _authorize(proxy: SplitResult) -> dict[str, str]:
    if proxy.username is None:
        return {}
    pair = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
    return {"Proxy-Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}


def _why(error: OSError | HTTPException, timeout: float, *, is_detour: bool) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"its certificate is not valid ({error.verify_message}): DISPATCHER_VERCEL_BASE_URL may be wrong. If a proxy or a private"
            " authority issues the certificates, name the file with the authority's certificate in DISPATCHER_CA_FILE"
        )
    if isinstance(error, ssl.SSLError):
        return "it does not speak TLS; DISPATCHER_VERCEL_BASE_URL may be wrong"
    if is_detour:
        return f"{error}; check HTTPS_PROXY and the proxy's log"
    if isinstance(error, TimeoutError):
        return (
            f"no answer within {timeout:g} s; a firewall may block it. If only a proxy leads out, set HTTPS_PROXY and"
            " DISPATCHER_TRUST_ENV_PROXY=true"
        )
    return f"{getattr(error, 'strerror', None) or error}; check DISPATCHER_VERCEL_BASE_URL, DNS and the firewall"
