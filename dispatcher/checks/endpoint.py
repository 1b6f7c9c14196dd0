"""Vercel's address: a connection is opened, with TLS, and nothing is sent."""

import asyncio
import ssl
from urllib.parse import urlsplit

from dispatcher.checks.finding import Finding, ok, problem, warning
from dispatcher.settings import Settings

TIMEOUT = 5.0
VERCEL = "api.vercel.com"


async def check_base_url(settings: Settings) -> list[Finding]:
    """Whether it leads anywhere, safely."""
    url = urlsplit(settings.vercel_base_url)
    is_safe = url.scheme.lower() == "https"
    host, port = url.hostname or "", url.port or (443 if is_safe else 80)
    found: list[Finding] = []
    if not is_safe:
        found.append(warning("base_url", f"{settings.vercel_base_url} is not https: tokens travel in clear text"))
    if host == VERCEL and url.path.strip("/"):
        found.append(
            problem("base_url", f"DISPATCHER_VERCEL_BASE_URL must end after {VERCEL}: the path is added to it")
        )
    try:
        async with asyncio.timeout(TIMEOUT):
            _, writer = await asyncio.open_connection(host, port, ssl=ssl.create_default_context() if is_safe else None)
    except (OSError, TimeoutError) as error:
        return [*found, problem("base_url", f"{host} port {port} cannot be reached: {_why(error)}")]
    writer.close()
    return [*found, ok("base_url", f"{host} port {port} answers")]


def _why(error: OSError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not valid ({error.verify_message}); DISPATCHER_VERCEL_BASE_URL may be wrong"
    if isinstance(error, ssl.SSLError):
        return "it does not speak TLS; DISPATCHER_VERCEL_BASE_URL may be wrong"
    if isinstance(error, TimeoutError):
        return f"no answer within {TIMEOUT:g} s; a firewall, or a proxy that is needed, may be in between"
    return f"{error.strerror or error}; look at DISPATCHER_VERCEL_BASE_URL, DNS and the firewall"
