"""Parses the URLs among the settings; see `values`."""

import re
from urllib.parse import SplitResult, urlsplit

INSTALLATION_FIELD = "{installation_id}"
_VISIBLE = re.compile(r"[\x21-\x7e]+")


def parse_base_url(value: object) -> str:
    """Parses the URL below which an application is found, such as Vercel's API; returns it without a trailing slash. Raises ValueError."""
    url = _parse_url(str(value))
    if url.query or url.fragment or "?" in str(value) or "#" in str(value):
        raise ValueError("must not hold a query or a fragment: write it like https://api.vercel.com")
    return str(value).rstrip("/")


def parse_token_url(value: object) -> str:
    """Parses the URL of an OAuth token endpoint. Raises ValueError."""
    if _parse_url(str(value)).fragment:
        raise ValueError("must not hold a fragment (#…)")
    return str(value)


def parse_credentials_url(value: object) -> str:
    """Parses the URL that answers the token of `{installation_id}`. Raises ValueError."""
    url = _parse_url(str(value))
    if url.fragment:
        raise ValueError("must not hold a fragment (#…)")
    if INSTALLATION_FIELD in url.netloc or INSTALLATION_FIELD not in url.path + url.query:
        raise ValueError(
            f"must hold {INSTALLATION_FIELD} in its path or its query: write it like"
            f" https://partner.example.com/vercel-tokens/{INSTALLATION_FIELD}"
        )
    return str(value)


def _parse_url(text: str) -> SplitResult:
    malformed = ValueError("is not a URL: write one like https://api.vercel.com")
    if not _VISIBLE.fullmatch(text) or "\\" in text:
        raise malformed
    try:
        url = urlsplit(text)
        port = url.port
    except ValueError:
        raise malformed from None
    if url.scheme not in ("https", "http") or not url.hostname or port == 0:
        raise malformed
    if "@" in url.netloc:
        raise ValueError("must not hold a user name or password")
    return url
