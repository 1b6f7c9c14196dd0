"""The pages of operations: all of this process, and the resolutions in the database; one with its progress; the aftermath of replays."""

from collections.abc import Mapping
from copy import copy

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from dispatcher.console.actions import only_for_operators
from dispatcher.console.fields import UnusableFilter, read_text, read_time
from dispatcher.console.login import read_form
from dispatcher.console.operations import Operation, Operations
from dispatcher.console.pages import Pages
from dispatcher.console.plan_tokens import PlanTokens, Promise
from dispatcher.console.reading import Reading, Unreadable
from dispatcher.inspection.aftermath import Replays, aftermath
from dispatcher.inspection.resolution_groups import group_resolutions

ROWS = 50


def routes(pages: Pages, operations: Operations | None) -> list[Route]:
    """Returns the routes of the list, which has the operations of this process if there can be any, and of what became of replays."""

    async def list_(request: Request) -> Response:
        values: dict[str, object] = {"found": None, "is_cut": False}
        values["operations"] = None if operations is None else list(reversed(operations.all.values()))
        values["command_words"] = ("dead-letters", "resolutions", "--limit", str(ROWS))
        try:
            reading = await pages.reader.status()
            found = await pages.reader.ask(lambda database: group_resolutions(database, ROWS))
        except Unreadable as error:
            if operations is None:
                return pages.unreadable(request, str(error))
            return _stale(pages, request, "operations.html", values, error)
        values |= {"found": found, "is_cut": len(found.groups) == ROWS}
        return pages.page(request, "operations.html", reading, values)

    return [Route("/operations", list_), pages.route("/operations/aftermath", _follow)]


def routes_of_one(pages: Pages, operations: Operations, tokens: PlanTokens) -> list[Route]:
    """Returns the routes of the page of an operation, and of the form that stops it."""

    async def show(request: Request) -> Response:
        operation = operations.all.get(request.path_params["number"])
        if operation is None:
            return pages.trouble(request, 404, "There is no such operation", _FORGOTTEN)
        operation = copy(operation)  # as of now: it goes on while the database is asked
        token = tokens.issue(request.state.visitor, _promise(operation))
        values: dict[str, object] = {"operation": operation, "aftermath": None, "token": token}
        try:
            reading = await pages.reader.status()
            return pages.page(request, "operation.html", reading, values | await _became(pages, operation))
        except Unreadable as error:
            return _stale(pages, request, "operation.html", values, error)

    async def stop(request: Request) -> Response:
        return await _stop(pages, tokens, request, operations.all.get(request.path_params["number"]))

    return [
        Route("/operations/{number:int}", show),
        Route("/operations/{number:int}/stop", stop, methods=["POST"]),
    ]


async def _follow(pages: Pages, request: Request, reading: Reading) -> Response:
    fields = {name: request.query_params.get(name, "").strip() for name in ("since", "until", "by")}
    given = {name: text for name, text in fields.items() if text}
    values: dict[str, object] = {"fields": fields, "errors": {}, "aftermath": None}
    values["command_words"] = ("dead-letters", "aftermath", *(w for n, text in given.items() for w in (f"--{n}", text)))
    now = pages.reader.now(reading)
    try:
        since, until = (read_time(name, fields[name], now) for name in ("since", "until"))
        replays = Replays(since=since, by=read_text("by", fields["by"]), until=until)
    except UnusableFilter as error:
        values["errors"] = {error.field: str(error)}
        return pages.page(request, "aftermath.html", reading, values, status=400)
    values["aftermath"] = await pages.reader.ask(lambda database: aftermath(database, replays))
    return pages.page(request, "aftermath.html", reading, values)


_FORGOTTEN = (
    "Those of an earlier run of the console are not kept; the page Operations has what the database knows of them."
)


async def _became(pages: Pages, operation: Operation) -> dict[str, object]:
    """Returns what became of a replay, for its page. Raises Unreadable."""
    replays = operation.replays
    if replays is None:
        return {}
    until = () if replays.until is None else ("--until", replays.until.isoformat())
    since = ("--since", operation.started_at.isoformat(), *until)
    command_words = ("dead-letters", "aftermath", *since, "--by", str(replays.by))
    if not operation.is_over:
        return {"command_words": command_words}
    followed = await pages.reader.ask(lambda database: aftermath(database, replays))
    return {"command_words": command_words, "aftermath": followed}


def _stale(pages: Pages, request: Request, template: str, values: Mapping[str, object], error: Unreadable) -> Response:
    """Returns the page without the database: an operation is in memory, and may have ended with it."""
    if error.last is None:
        return pages.unreadable(request, str(error))
    return pages.page(request, template, error.last, values, problem=str(error))


async def _stop(pages: Pages, tokens: PlanTokens, request: Request, operation: Operation | None) -> Response:
    if not request.state.visitor.may_write:
        return only_for_operators(pages, request)
    if operation is None:
        raise HTTPException(404)
    promised, token = _promise(operation), (await read_form(request)).get("plan", "")
    if tokens.read(request.state.visitor, promised.action, promised.scope, token) is None:
        why = "The page was older than ten minutes, or of another login: go back, and open it again."
        return pages.trouble(request, 403, "It was not stopped", why)
    operation.stop()
    return RedirectResponse(f"../{operation.number}", 303)


def _promise(operation: Operation) -> Promise:
    return Promise("stop", str(operation.number))
