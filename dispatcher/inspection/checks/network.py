"""Reports how requests leave this machine: which certificate authorities are trusted, and through which proxy."""

from collections.abc import Iterator
from urllib.parse import urlsplit

from dispatcher.inspection.checks.finding import Finding, ok
from dispatcher.settings.settings import Settings
from dispatcher.transport import Network


def check_network(settings: Settings, network: Network) -> Iterator[Finding]:
    """Names the trusted authorities and the proxy, without its password."""
    yield ok("authorities", f"the trusted certificate authorities are those of {_name_store(settings, network)}")
    if not settings.trust_env_proxy:
        yield ok("proxy", "none: DISPATCHER_TRUST_ENV_PROXY is false, so HTTPS_PROXY and HTTP_PROXY are not read")
        return
    for url in filter(None, (settings.vercel_base_url, settings.oauth_token_url)):
        yield ok("proxy", f"{urlsplit(url).hostname} is reached{network.detour(url) or ' directly'}")


def _name_store(settings: Settings, network: Network) -> str:
    store = "Python's certifi, because this machine has none" if network.store is None else str(network.store)
    return f"{store}, and of {settings.ca_file}" if settings.ca_file else store
