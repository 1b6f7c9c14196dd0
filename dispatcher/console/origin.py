"""Under which address a request may arrive, and which pages may send a form: against DNS rebinding and forged requests."""

from urllib.parse import SplitResult, urlsplit

from dispatcher.policy.hosts import is_local

_DEFAULT_PORTS = {"http": 80, "https": 443}
Origin = tuple[str, str, int | None]


class Origins:
    """The console's own addresses: those of this machine, and that of `DISPATCHER_CONSOLE_URL`."""

    def __init__(self, url: str | None) -> None:
        self._url = None if url is None else _origin_of(urlsplit(url))

    def is_host(self, header: str) -> bool:
        """Whether a request may have this header `Host`."""
        host = _parse(f"http://{header}")
        return host is not None and (is_local(host[1]) or (self._url is not None and host[1] == self._url[1]))

    def is_own(self, header: str, host_header: str) -> bool:
        """Whether this header `Origin` is that of the console's own pages, opened under this header `Host`."""
        origin = _parse(header)
        if origin is None or origin == self._url:
            return origin is not None
        scheme, host, _ = origin
        return is_local(host) and origin == _parse(f"{scheme}://{host_header}")


def _parse(url: str) -> Origin | None:
    try:
        parts = urlsplit(url)
        origin = _origin_of(parts)
    except ValueError:
        return None
    is_bare = not (parts.path or parts.query or parts.fragment or "@" in parts.netloc)
    return origin if is_bare and origin[0] in _DEFAULT_PORTS and origin[1] else None


def _origin_of(url: SplitResult) -> Origin:
    return url.scheme, (url.hostname or "").rstrip("."), url.port or _DEFAULT_PORTS.get(url.scheme)
