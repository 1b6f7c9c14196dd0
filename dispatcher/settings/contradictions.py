"""Settings that are valid one by one and cannot be used together. Pure."""

from collections.abc import Iterator
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from dispatcher.database_url.address import family_of
from dispatcher.policy.hosts import is_local
from dispatcher.settings.choices import Wakeup
from dispatcher.settings.durations import format_duration
from dispatcher.settings.environment import PREFIX, variable_name

if TYPE_CHECKING:
    from dispatcher.settings.settings import Settings

LEASE_MARGIN_SECONDS = 1.0
"""A request is started only if its lease outlasts its deadline by this much; a shorter lease would send nothing."""
MAX_REQUESTS_PER_WINDOW = 4_000
"""Their times are kept in the installation's row, as text of at most 64 KiB on MySQL and MariaDB."""


def find_contradictions(settings: "Settings") -> Iterator[str]:
    """Yields a sentence for each problem."""
    yield from _find_bad_limits(settings)
    yield from _find_postgresql_only(settings)
    yield from _find_insecure_urls(settings)
    yield from _find_credential_conflicts(settings)


def _find_bad_limits(settings: "Settings") -> Iterator[str]:
    if settings.lease < settings.request_timeout + LEASE_MARGIN_SECONDS:
        least, margin = map(format_duration, (settings.request_timeout + LEASE_MARGIN_SECONDS, LEASE_MARGIN_SECONDS))
        yield f"DISPATCHER_LEASE must be at least {least}, which is DISPATCHER_REQUEST_TIMEOUT plus {margin}: lengthen it"
    if settings.backoff_cap < settings.backoff_base:
        yield "DISPATCHER_BACKOFF_CAP must not be shorter than DISPATCHER_BACKOFF_BASE: lengthen it"
    if settings.rate_limit is not None and settings.rate_limit.requests > MAX_REQUESTS_PER_WINDOW:
        most = f"at most {MAX_REQUESTS_PER_WINDOW} requests, whose times an installation's row holds"
        yield f"DISPATCHER_RATE_LIMIT must name {most}: name fewer in a shorter time, such as 100/1s"


def _find_postgresql_only(settings: "Settings") -> Iterator[str]:
    if family_of(settings.database_url.get_secret_value()) in ("postgresql", None):
        return
    if settings.wakeup is Wakeup.NOTIFY:
        yield "DISPATCHER_WAKEUP=notify needs a postgresql:// URL in DISPATCHER_DATABASE_URL: set it to poll"
    if settings.database_schema is not None:
        yield "DISPATCHER_SCHEMA needs a postgresql:// URL in DISPATCHER_DATABASE_URL: unset it"


def _find_insecure_urls(settings: "Settings") -> Iterator[str]:
    if settings.allow_insecure_base_url:
        return
    for name, host in insecure_hosts(settings):
        if name == variable_name("credentials_url") and is_local(host):
            continue  # a service of the partner's own, often in the same pod
        yield f"{name} must begin with https:// (for tests: {PREFIX}ALLOW_INSECURE_BASE_URL=true)"


def _find_credential_conflicts(settings: "Settings") -> Iterator[str]:
    oauth = {
        variable_name(field): getattr(settings, field)
        for field in ("oauth_token_url", "oauth_client_id", "oauth_client_secret")
    }
    missing = [name for name, value in oauth.items() if value is None]
    wants_oauth = len(missing) < len(oauth) or settings.oauth_params is not None
    if wants_oauth and missing:
        yield f"the OAuth settings are incomplete: set {', '.join(missing)} as well, or none of DISPATCHER_OAUTH_…"
    if settings.credentials_url_token is not None and settings.credentials_url is None:
        yield "DISPATCHER_CREDENTIALS_URL_TOKEN goes with DISPATCHER_CREDENTIALS_URL: set that as well, or unset it"
    sources = [
        variable_name(field)
        for field in ("vercel_token", "credentials_query", "credentials_dir", "credentials_url")
        if getattr(settings, field) is not None
    ]
    if wants_oauth:
        sources.append("DISPATCHER_OAUTH_…")
    if len(sources) > 1:
        yield f"{', '.join(sources)} are several sources of credentials: keep one of them"


def insecure_hosts(settings: "Settings") -> list[tuple[str, str]]:
    """Returns each variable whose URL sends tokens in clear text, with its host."""
    urls = {field: getattr(settings, field) for field in ("vercel_base_url", "credentials_url", "oauth_token_url")}
    return [
        (variable_name(field), urlsplit(url).hostname or "")
        for field, url in urls.items()
        if url is not None and not url.lower().startswith("https://")
    ]
