"""Stands before every page: only its own addresses, its own forms, and people who may enter get through; sets the security headers."""

import time
from collections.abc import Callable
from urllib.parse import urlencode

import structlog
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dispatcher.console.access import Access, NotAdmitted
from dispatcher.console.origin import Origins
from dispatcher.console.pages import Pages, root_of
from dispatcher.telemetry.log import WINDOW_SECONDS
from dispatcher.telemetry.repetition import Repetition

SAFE_METHODS = frozenset({"GET", "HEAD"})
OPEN_PATHS = ("/login", "/static/")
"""What people see who have not logged in."""
LIVE_PATH = "/livez"
"""What a probe asks, under any address: it shows nothing."""
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self';"
    " frame-ancestors 'none'; base-uri 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    # With `no-referrer` the Origin of a form would be `null`.
    "Referrer-Policy": "same-origin",
    "X-Robots-Tag": "noindex",
}


class Refusals:
    """Logs requests that were refused: a few lines of each kind, then how many more there were."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._log = structlog.get_logger("dispatcher")
        self._clock = clock
        self._window_ends = clock() + WINDOW_SECONDS
        self._repetition: Repetition[str] = Repetition()

    def note(self, why: str, request: Request) -> None:
        """Writes one line, unless there were enough of this kind."""
        if self._clock() >= self._window_ends:
            self._window_ends = self._clock() + WINDOW_SECONDS
            for kind, more in self._repetition.end().items():
                self._log.warning("refused by the console", why=kind, more=more)
        if self._repetition.allows(why):
            peer = request.client.host if request.client else None
            self._log.warning("refused by the console", why=why, peer=peer)


class Guard:
    """Wraps the application."""

    def __init__(
        self, app: ASGIApp, access: Access, origins: Origins, pages: Pages, refusals: Refusals, prefix: str | None
    ) -> None:
        self._app = app
        self._access = access
        self._origins = origins
        self._pages = pages
        self._refusals = refusals
        self._prefix = prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope = self._without_prefix(scope)
        refusal = None if scope["path"] == LIVE_PATH else self._refuse(Request(scope))
        answer = refusal or self._app
        await answer(scope, receive, _with_headers(send))

    def _without_prefix(self, scope: Scope) -> Scope:
        """A proxy strips the prefix from the path, or keeps it."""
        path = scope["path"]
        is_kept = self._prefix is not None and path.startswith(f"{self._prefix}/")
        return {**scope, "path": path.removeprefix(self._prefix or "") if is_kept else path}

    def _refuse(self, request: Request) -> Response | None:
        """Returns the answer to a request that does not get through."""
        host, path = request.headers.get("host", ""), request.url.path
        if not self._origins.is_host(host):
            return self._problem(
                request,
                400,
                "wrong host",
                "The console does not know the address under which you have opened it: set DISPATCHER_CONSOLE_URL to it, or"
                " let the proxy send its own header Host (nginx: proxy_set_header Host $host).",
            )
        if request.method not in SAFE_METHODS and not self._origins.is_own(request.headers.get("origin", ""), host):
            return self._problem(
                request,
                403,
                "wrong origin",
                "This form was not sent by a page of the console, or a proxy has changed the headers Origin or Host: set"
                " DISPATCHER_CONSOLE_URL to the address that people open, and let the proxy send its own header Host"
                " (nginx: proxy_set_header Host $host).",
            )
        if path == self._prefix:
            return RedirectResponse(f"{path.rpartition('/')[2]}/", 303)
        return None if path.startswith(OPEN_PATHS) else self._admit(request)

    def _admit(self, request: Request) -> Response | None:
        try:
            visitor = self._access.admit(request)
        except NotAdmitted as refusal:
            return self._problem(request, 403, "not admitted", str(refusal))
        if visitor is None:
            query = f"?{request.url.query}" if request.url.query else ""
            wanted = f"{request.url.path.lstrip('/')}{query}" if request.method in SAFE_METHODS else ""
            next_ = f"?{urlencode({'next': wanted})}" if wanted else ""
            return RedirectResponse(f"{root_of(request)}login{next_}", 303)
        request.state.visitor = visitor
        return None

    def _problem(self, request: Request, status: int, kind: str, why: str) -> Response:
        self._refusals.note(kind, request)
        return self._pages.outside(request, "refused.html", status, why=why)


def _with_headers(send: Send) -> Send:
    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers.update(_HEADERS)
            headers.setdefault("Cache-Control", "no-store")
        await send(message)

    return send_with_headers
