"""The pages of installations: the list in its views, and one with everything that decides when its deliveries are sent."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self
from urllib.parse import urlencode

from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from dispatcher.console.fields import UnusableFilter, read_choice
from dispatcher.console.pages import Pages
from dispatcher.console.reading import Reading
from dispatcher.database.transactions import Database
from dispatcher.inspection.graces import Graces
from dispatcher.inspection.installation_detail import MAX_COUNTED_DELIVERIES, PAUSE_ADVICE, find_installation
from dispatcher.inspection.installation_list import (
    MAX_COUNTED_INSTALLATIONS,
    Key,
    View,
    count_views,
    list_installations,
)
from dispatcher.inspection.installations import Installation
from dispatcher.inspection.requests import RequestFilter, newest_requests
from dispatcher.outbox.events import INSTALLATION_ID
from dispatcher.policy.decision import PauseReason
from dispatcher.policy.installation_breaker import BREAKER_FAULTS
from dispatcher.store.installations import FOREVER

ROWS = 100
DELIVERIES = 10
REQUESTS = 5
_TABS = (View.PAUSED, View.FAILING, View.BEHIND, View.ALL)


@dataclass(frozen=True, slots=True)
class Wanted:
    """The list as the URL has it."""

    view: View = View.ALL
    prefix: str = ""
    reason: str = ""
    """A `PauseReason`; empty: any. Only of paused ones."""
    after: str = ""
    """The key after which the page begins; empty: it is the first."""

    @classmethod
    def of(cls, query: QueryParams) -> Self:
        show = query.get("show", "")
        view = View(show) if show in list(View) else View.ALL
        reason = query.get("reason", "").strip() if view is View.PAUSED else ""
        return cls(view, query.get("prefix", "").strip(), reason, query.get("after", "").strip())

    @property
    def command_words(self) -> tuple[str, ...]:
        """The command that lists the same."""
        view = () if self.view is View.ALL else (f"--{self.view}",)
        after = {"after": self.after} if self.after else {}
        options = (word for name, text in (self.given | after).items() for word in (f"--{name}", text))
        return ("installations", "list", *view, *options)

    @property
    def given(self) -> dict[str, str]:
        """The conditions, by their field."""
        return {name: text for name in ("prefix", "reason") if (text := getattr(self, name))}

    def page(self, database: Database, graces: Graces) -> list[Installation]:
        """Returns the installations of the page. Raises UnusableFilter."""
        if self.prefix and not INSTALLATION_ID.fullmatch(self.prefix):
            raise UnusableFilter("prefix", "has characters other than letters, digits, _ and -")
        reason = read_choice("reason", self.reason, PauseReason)
        try:
            after = Key.parse(self.after, self.view) if self.after else None
        except ValueError as error:
            raise UnusableFilter("after", str(error)) from None
        return list_installations(database, graces, ROWS, self.view, self.prefix, reason, after)

    def link(self, view: View) -> str:
        """Returns the URL of another view of these."""
        return _url({"show": view, "prefix": self.prefix})

    @property
    def first(self) -> str:
        """The URL of the first page."""
        return _url({"show": self.view, **self.given})

    def next(self, last: Installation) -> str:
        """Returns the URL of the page after this one, which ends with that installation."""
        return _url({"show": self.view, **self.given, "after": str(Key.of(last, self.view))})


def _url(fields: Mapping[str, str]) -> str:
    return f"installations?{urlencode({name: text for name, text in fields.items() if text})}"


def routes(pages: Pages) -> list[Route]:
    """Returns the routes of both pages."""
    return [pages.route("/installations", _list), pages.route("/installations/{id}", _show)]


async def _list(pages: Pages, request: Request, reading: Reading) -> Response:
    wanted, graces = Wanted.of(request.query_params), Graces.of(pages.settings)
    values: dict[str, object] = {
        "wanted": wanted,
        "tabs": _TABS,
        "command_words": wanted.command_words,
        "forever": FOREVER,
    }
    values |= {"reasons": list(PauseReason), "most": MAX_COUNTED_INSTALLATIONS, "errors": {}, "next": None}
    try:
        found, counts = await pages.reader.ask(
            lambda database: (wanted.page(database, graces), count_views(database, wanted.prefix))
        )
    except UnusableFilter as error:
        values |= {"installations": [], "counts": {}, "errors": {error.field: str(error)}}
        return pages.page(request, "installations.html", reading, values, status=400)
    values |= {"installations": found, "counts": counts}
    values |= {"next": wanted.next(found[-1])} if len(found) == ROWS else {}
    return pages.page(request, "installations.html", reading, values)


async def _show(pages: Pages, request: Request, reading: Reading) -> Response:
    id_: str = request.path_params["id"]
    graces, settings = Graces.of(pages.settings), pages.settings
    found = None
    if INSTALLATION_ID.fullmatch(id_):
        found = await pages.reader.ask(
            lambda database: find_installation(database, id_, graces, settings.rate_limit, DELIVERIES)
        )
    values: dict[str, object] = {"id": id_, "command_words": ("installations", "show", id_)}
    if found is None:
        return pages.page(request, "installation_unknown.html", reading, values, status=404)
    values |= {
        "found": found,
        "requests": (
            await pages.reader.ask(lambda database: newest_requests(database, RequestFilter(id_), REQUESTS))
        ).requests,
        "one": found.installation,
        "advice": PAUSE_ADVICE[PauseReason(reason)] if (reason := found.installation.pause_reason) else None,
        "breaker_faults": BREAKER_FAULTS,
        "is_limited": settings.rate_limit is not None,
        "max_attempts": settings.max_attempts,
        "least": "+" if found.waiting >= MAX_COUNTED_DELIVERIES else "",
    }
    return pages.page(request, "installation.html", reading, values)
