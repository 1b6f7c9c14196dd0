"""Reports how requests leave this machine: which certificate authorities are trusted, and through which proxy."""

from collections.abc import Iterator
from urllib.parse import urlsplit

from dispatcher.inspection.checks.finding import Finding, ok, warning
from dispatcher.policy.hosts import is_local
from dispatcher.settings.settings import Settings
from dispatcher.transport import Network


def check_network(settings: Settings, network: Network) -> Iterator[Finding]:
    """Names the trusted authorities and the proxy, without its password."""
    yield ok("authorities", f"the trusted certificate authorities are those of {_name_store(settings, network)}")
    if not settings.trust_env_proxy:
        yield ok("proxy", "none: DISPATCHER_TRUST_ENV_PROXY is false, so HTTPS_PROXY and HTTP_PROXY are not read")
        return
    for url in filter(None, (settings.vercel_base_url, settings.credentials_url, settings.oauth_token_url)):
        host, detour = urlsplit(url).hostname, network.detour(url)
        yield ok("proxy", f"{host} is reached{detour or ' directly'}")
        if detour and url == settings.credentials_url and is_local(host or ""):
            yield warning(
                "proxy",
                f"DISPATCHER_CREDENTIALS_URL names this machine, but tokens travel{detour}: add {host} to NO_PROXY",
            )


def _name_store(settings: Settings, network: Network) -> str:
    store = "Python's certifi, because this machine has none" if network.store is None else str(network.store)
    return f"{store}, and of {settings.ca_file}" if settings.ca_file else store
