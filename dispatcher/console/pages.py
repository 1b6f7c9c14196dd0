"""Renders the pages. Every link is relative, so that they work below any path of a proxy; every value is escaped."""

import re
import shlex
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from dispatcher import __version__
from dispatcher.console.assets import Assets
from dispatcher.console.links import aftermath_link, letters_link, own_page, returning
from dispatcher.console.reading import Reader, Reading, Unreadable
from dispatcher.settings.durations import age
from dispatcher.settings.settings import Settings
from dispatcher.telemetry.console_links import explain_link, installation_link

_TEMPLATES = Path(__file__).with_name("templates")
_TIME = re.compile(r'<time id="(?:as-of|now)"[^>]*>[^<]*|(<time\b[^>]*>)[^<]*')
"""What changes on a page although nothing has happened: how long ago something was, and when that was read."""
RETRY_SECONDS = 5


@dataclass(frozen=True, slots=True)
class Place:
    """A page of the navigation."""

    path: str
    """Relative to the console's root."""
    title: str
    key: str
    """The key that leads there, after `g`."""


PLACES = (
    Place("", "Now", "n"),
    Place("dead-letters", "Dead letters", "d"),
    Place("installations", "Installations", "i"),
    Place("explain", "Explain", "e"),
    Place("requests", "Requests", "q"),
    Place("system", "System", "s"),
    Place("operations", "Operations", "o"),
)


Show = Callable[["Pages", Request, Reading], Awaitable[Response]]
"""Returns a page as of a reading. Raises Unreadable."""


class Pages:
    """Renders the templates with what they all need."""

    def __init__(self, settings: Settings, reader: Reader, assets: Assets) -> None:
        self.settings = settings
        self.reader = reader
        self._templates = Environment(
            loader=FileSystemLoader(_TEMPLATES),
            autoescape=True,
            undefined=StrictUndefined,
            finalize=printable,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.filters |= {
            "number": number,
            "age": age,
            "iso": iso,
            "command": command,
            "returning": returning,
        }
        self._templates.globals |= {
            "places": PLACES,
            "label": settings.console_label,
            "database": settings.database.place,
            "schema": settings.database_schema,
            "version": __version__,
            "asset": assets.url,
            "ago": ago,
            "exact": exact,
            "aftermath_link": aftermath_link,
            "explain_link": explain_link,
            "installation_link": installation_link,
            "letters_link": letters_link,
        }

    def route(self, path: str, show: Show) -> Route:
        """Returns the route of a page, shown with the newest reading; if there is none, a page says why."""

        async def answer(request: Request) -> Response:
            try:
                return await show(self, request, await self.reader.status())
            except Unreadable as error:
                return self.unreadable(request, str(error))

        return Route(path, answer)

    def page(
        self,
        request: Request,
        template: str,
        reading: Reading,
        values: Mapping[str, object],
        *,
        status: int = 200,
        problem: str | None = None,
    ) -> Response:
        """Returns a page, or 304 if the browser has it already. With a `problem` it shows the last that is known, as 503."""
        now = self.reader.now(reading)
        html = self._render(request, template, {**values, "reading": reading, "now": now, "problem": problem})
        if problem is not None:
            return HTMLResponse(html, 503, {"Retry-After": str(RETRY_SECONDS)})
        headers = {"ETag": tag_of(html), "X-As-Of": iso(reading.status.at), "X-Now": iso(now)}
        if status == 200 and request.headers.get("if-none-match") == headers["ETag"]:
            return Response(None, 304, headers)
        return HTMLResponse(html, status, headers)

    def unreadable(self, request: Request, why: str) -> Response:
        """Returns the page that stands in for one whose data cannot be read at present."""
        title = "Nothing was changed" if request.method == "POST" else "Nothing can be shown at present"
        values = {"problem": why, "title": title, "why": None}
        html = self._render(request, "problem.html", values)
        return HTMLResponse(html, 503, {"Retry-After": str(RETRY_SECONDS)})

    def trouble(self, request: Request, status: int, title: str, why: str | None = None) -> Response:
        """Returns a page that says what is wrong."""
        if not hasattr(request.state, "visitor"):
            return self.outside(request, "refused.html", status, why=why or title)
        html = self._render(request, "problem.html", {"title": title, "why": why, "is_live": False})
        return HTMLResponse(html, status)

    def outside(self, request: Request, template: str, status: int = 200, **values: object) -> Response:
        """Returns a page for those who have not entered, which shows nothing of the database."""
        html = self._templates.get_template(template).render(root=root_of(request), **values)
        return HTMLResponse(html, status)

    def _render(self, request: Request, template: str, values: Mapping[str, object]) -> str:
        path = request.url.path.lstrip("/")
        given: dict[str, object] = {
            "reading": None,
            "problem": None,
            "root": root_of(request),
            "here": path.partition("/")[0],
            "address": f"{path}?{request.url.query}" if request.url.query else path,
            "way_back": own_page(request.query_params.get("from", "")),
            "visitor": request.state.visitor,
            "may_act": self._may_act(request, values),
            "is_live": True,
        }
        return self._templates.get_template(template).render({**given, **values})

    @staticmethod
    def _may_act(request: Request, values: Mapping[str, object]) -> bool:
        """Whether this person is offered actions, which the database would take."""
        reading, is_current = values.get("reading"), values.get("problem") is None
        is_writable = isinstance(reading, Reading) and reading.refusal is None
        return is_current and is_writable and bool(request.state.visitor.may_write)


def root_of(request: Request) -> str:
    """Returns the way from this page to the console's root: `./` or `../`."""
    return "../" * (request.url.path.count("/") - 1) or "./"


def tag_of(html: str) -> str:
    """Returns the ETag of a page, which stays the same while only time passes."""
    return f'"{sha256(_TIME.sub(lambda time: time[1] or "", html).encode()).hexdigest()[:32]}"'


def printable(value: object) -> object:
    """Escapes the characters of a text that could reorder or hide others; line breaks stay."""
    if not isinstance(value, str) or isinstance(value, Markup) or value.isprintable():
        return value
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in value)


def number(value: int) -> str:
    """`1,204`."""
    return f"{value:,}"


def command(words: Sequence[str]) -> str:
    """Returns the command line that shows the same."""
    return shlex.join(["dispatcher", *words])


def iso(time: datetime) -> str:
    """The time for programs, to the millisecond."""
    return time.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def exact(time: datetime) -> Markup:
    """The time to the second, in UTC; the script shows it in local time if the person prefers that."""
    return Markup('<time datetime="{}" data-exact>{:%Y-%m-%d %H:%M:%S}</time>').format(iso(time), time.astimezone(UTC))


def ago(now: datetime, time: datetime) -> Markup:
    """How long ago the time was, which the script keeps up to date; the time itself is its title."""
    seconds = round((now - time).total_seconds())
    text = f"in {age(-seconds)}" if seconds < 0 else f"{age(seconds)} ago"
    return Markup('<time datetime="{}" title="{:%Y-%m-%d %H:%M:%S} UTC">{}</time>').format(
        iso(time), time.astimezone(UTC), text
    )
