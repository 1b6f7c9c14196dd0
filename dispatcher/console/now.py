"""The page *Now*: whether anything needs a person, worst first, then what waits and what is going out."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from dispatcher.console.dead_letter_filter import Wanted
from dispatcher.console.minutes import Minutes, draw
from dispatcher.console.pages import PLACES, Pages
from dispatcher.console.reading import MAX_READ_DEAD_LETTERS, Reading, Unreadable
from dispatcher.console.request_filter import FAILING
from dispatcher.console.shared import Block, Shared
from dispatcher.inspection.causes import Causes, causes
from dispatcher.inspection.concerns import Concern, concerns
from dispatcher.inspection.graces import Graces
from dispatcher.inspection.installation_list import View, list_installations
from dispatcher.inspection.installations import Installation
from dispatcher.inspection.minutes import Minute
from dispatcher.inspection.status import Recent, Status
from dispatcher.policy.outcome import OutcomeKind
from dispatcher.store.dead_letters import Filter
from dispatcher.telemetry.console_links import explain_link

MAX_CAUSES = 5
"""Causes of dead letters that are named, the largest first."""
_TONES = {OutcomeKind.DELIVERED: "good", OutcomeKind.THROTTLED: "wait"}
_QUERY_OF = {"--reason": "reason"}


def route(pages: Pages) -> Route:
    """Returns the page's route."""
    worst = Shared(pages.reader, lambda database: causes(database, Filter(), MAX_CAUSES, MAX_READ_DEAD_LETTERS))
    graces = Graces.of(pages.settings)
    dying = Shared(pages.reader, lambda database: list_installations(database, graces, 1, View.PAUSED))
    minutes = Shared(pages.reader, Minutes().read)

    async def now(request: Request) -> Response:
        try:
            reading = await pages.reader.status()
        except Unreadable as error:
            if error.last is None:
                return pages.unreadable(request, str(error))
            return _show(pages, request, error.last, worst.last, dying.last, minutes.last, str(error))
        return _show(pages, request, reading, await worst.read(), await dying.read(), await minutes.read())

    return Route("/", now)


def _show(
    pages: Pages,
    request: Request,
    reading: Reading,
    worst: Block[Causes],
    dying: Block[list[Installation]],
    minutes: Block[list[Minute]],
    problem: str | None = None,
) -> Response:
    status = reading.status
    worries = concerns(status)
    values = {
        "command_words": ("status",),
        "concerns": [Item(one, link_of(one)) for one in worries],
        "verdict": _verdict(worries),
        "is_urgent": any(one.urgent for one in worries),
        "is_new": is_new(status),
        "last_at": last_request_at(status),
        "shares": list(shares(status.recent)),
        "any_letter": Wanted(),
        "worst": worst,
        "first_to_die": next((one for one in dying.value or () if one.dies_at is not None), None),
        "minutes": minutes,
        "chart": None if minutes.value is None else draw(minutes.value),
    }
    return pages.page(request, "now.html", reading, values, problem=problem)


@dataclass(frozen=True, slots=True)
class Item:
    """A concern, and the page that shows its rows."""

    concern: Concern
    link: str | None

    @property
    def place(self) -> str:
        """The name of that page in the navigation."""
        return next(one.title for one in PLACES if one.path and self.link and self.link.startswith(one.path))


@dataclass(frozen=True, slots=True)
class Share:
    """An outcome's part of the requests, as a piece of a bar; in per cent of its width."""

    outcome: str
    tone: str
    requests: int
    begin: float
    width: float


def shares(recent: Recent) -> Iterator[Share]:
    """Returns the pieces of the bar, the largest first."""
    begin = 0.0
    for outcome, requests in recent.outcomes.items():
        width = 100 * requests / recent.requests
        tone = _TONES.get(OutcomeKind(outcome), "bad")
        yield Share(outcome, tone, requests, round(begin, 2), round(width, 2))
        begin += width


def is_new(status: Status) -> bool:
    """Whether nothing has ever been published, as far as is known."""
    backlog = status.backlog
    return not (backlog.left or backlog.installations or backlog.dead_letters or status.last_request)


def _verdict(worries: Sequence[Concern]) -> str:
    urgent = sum(one.urgent for one in worries)
    rest = len(worries) - urgent
    if urgent:
        return f"{'1 thing needs' if urgent == 1 else f'{urgent} things need'} you{f', {rest} more to look at' if rest else ''}"
    return f"Nothing urgent, {rest} thing{'' if rest == 1 else 's'} to look at" if rest else "Nothing needs you"


def link_of(concern: Concern) -> str | None:
    """Returns the address of the page that shows what its command shows; None if there is none."""
    match concern.command:
        case ("dead-letters", "causes" | "list" as command, *words):
            view = {"view": "list"} if command == "list" else {}
            options = {_QUERY_OF[option]: value for option, value in zip(words[::2], words[1::2], strict=True)}
            query = urlencode(view | options)
            return f"dead-letters{'?' if query else ''}{query}"
        case ("requests", "--failed"):
            return f"requests?outcome={FAILING}"
        case ("check",):
            return "system"
        case ("installations", "list", option):
            return f"installations?{urlencode({'show': option.removeprefix('--')})}"
        case ("explain", name, *words):
            return explain_link(name, words[-1] if words else None)
        case _:
            return None


def last_request_at(status: Status) -> datetime | None:
    """Returns when the newest request was made, by the database's clock; None without one."""
    return None if status.last_request is None else status.at - timedelta(seconds=status.last_request.age)
