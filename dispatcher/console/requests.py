"""The page of requests: what the newest of them came to, and below it the requests themselves."""

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from dispatcher.console.fields import UnusableFilter
from dispatcher.console.pages import Pages
from dispatcher.console.reading import Reading, TooSlow
from dispatcher.console.request_filter import FAILING, ROWS, Wanted
from dispatcher.inspection.request_groups import group_requests
from dispatcher.inspection.requests import RequestFilter, newest_requests
from dispatcher.policy.outcome import OutcomeKind


def route(pages: Pages) -> Route:
    """Returns the page's route."""
    return pages.route("/requests", _show)


async def _show(pages: Pages, request: Request, reading: Reading) -> Response:
    wanted = Wanted.of(request.query_params)
    values: dict[str, object] = {
        "errors": {},
        "slow": None,
        "wanted": wanted,
        "outcomes": [FAILING, *OutcomeKind],
        "command_words": ("requests", *wanted.options, "--limit", str(ROWS)),
        "groups_words": ("requests", "--grouped", *wanted.options, "--limit", str(ROWS)),
    }
    try:
        selected = wanted.filter(pages.reader.now(reading))
    except UnusableFilter as error:
        values |= {"errors": {error.field: str(error)}, "requests": []}
        return pages.page(request, "requests.html", reading, values, status=400)
    try:
        values |= await _read(pages, selected)
    except TooSlow as error:
        values |= {"requests": [], "slow": str(error)}
        return pages.page(request, "requests.html", reading, values, status=503)
    return pages.page(request, "requests.html", reading, values)


async def _read(pages: Pages, selected: RequestFilter) -> dict[str, object]:
    grouped = await pages.reader.ask(lambda database: group_requests(database, selected))
    found = await pages.reader.ask(lambda database: newest_requests(database, selected, ROWS))
    return {
        "groups": grouped.groups[:ROWS],
        "hidden_groups": len(grouped.groups[ROWS:]),
        "groups_scope": grouped.scope,
        "requests": found.requests[::-1],
        "is_cut": len(found.requests) == ROWS,
        "scope": found.scope,
    }
