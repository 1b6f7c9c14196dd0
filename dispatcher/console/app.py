"""The console as an ASGI application."""

from collections.abc import Callable, Coroutine, Mapping
from typing import Any, cast

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from dispatcher.console import (
    actions,
    dead_letters,
    explain,
    installations,
    login,
    now,
    operation_pages,
    requests,
    search,
    system,
)
from dispatcher.console.access import Access, TokenAccess
from dispatcher.console.assets import Assets
from dispatcher.console.guard import LIVE_PATH, Guard, Refusals
from dispatcher.console.operations import Operations
from dispatcher.console.origin import Origins
from dispatcher.console.pages import Pages
from dispatcher.console.plan_tokens import PlanTokens
from dispatcher.console.reading import Reader
from dispatcher.console.writing import Refusal
from dispatcher.database.errors import summarize
from dispatcher.database.transactions import Database
from dispatcher.settings.settings import Settings


def console_app(
    settings: Settings, database: Database, access: Access, operator: str, operations: Operations | None = None
) -> Guard:
    """Returns the pages behind their guard, with actions if there are `operations`. `operator` is the name that is proposed to people
    who may write.
    """
    assets, refusals = Assets(), Refusals()
    refusal = None if operations is None else Refusal(operations.database)
    reader = Reader(database, refusal, logs_successes=settings.logs_successes)
    pages = Pages(settings, reader, assets)
    routes = [
        Route(LIVE_PATH, _live),
        Route("/static/{name}", assets.serve),
        now.route(pages),
        *dead_letters.routes(pages),
        *installations.routes(pages),
        explain.route(pages),
        search.route,
        requests.route(pages),
        system.route(pages),
        *operation_pages.routes(pages, operations),
        *(login.routes(pages, access, refusals, operator) if isinstance(access, TokenAccess) else ()),
        *(() if operations is None else _acting(pages, operations)),
    ]
    app = Starlette(routes=routes, exception_handlers=_handlers(pages))
    app.router.redirect_slashes = False  # it redirects to absolute URLs, which are wrong behind a proxy
    return Guard(app, access, Origins(settings.console_url), pages, refusals, settings.console_prefix)


async def _live(_: Request) -> Response:
    """Also while the database is away: a restart of the console would not bring it back."""
    return JSONResponse({"live": True})


def _acting(pages: Pages, operations: Operations) -> list[Route]:
    tokens = PlanTokens()
    return [actions.route(pages, operations, tokens), *operation_pages.routes_of_one(pages, operations, tokens)]


Handler = Callable[[Request, Exception], Coroutine[Any, Any, Response]]


def _handlers(pages: Pages) -> Mapping[Any, Handler]:
    async def refused(request: Request, error: Exception) -> Response:
        known = cast("HTTPException", error)
        return pages.trouble(request, known.status_code, _TITLES.get(known.status_code, known.detail))

    async def failed(request: Request, error: Exception) -> Response:
        why = f"{summarize(error)}. The log of the console has more; `dispatcher check` looks for the cause."
        return pages.trouble(request, 500, "This page cannot be made", why)

    return {HTTPException: refused, Exception: failed}


_TITLES = {404: "There is no such page", 405: "This cannot be done here"}
