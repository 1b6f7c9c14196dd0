"""Logging in with the token, and out again."""

from urllib.parse import parse_qsl, urlencode

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from dispatcher.console.access import MAX_NAME_LENGTH, TokenAccess
from dispatcher.console.guard import Refusals
from dispatcher.console.links import own_page
from dispatcher.console.pages import Pages

MAX_FORM_BYTES = 65_536


def routes(pages: Pages, access: TokenAccess, refusals: Refusals, operator: str) -> list[Route]:
    """Returns the routes of the login and the logout. `operator` is the name that is proposed to people who may write."""

    async def login(request: Request) -> Response:
        fields = dict(request.query_params) if request.method != "POST" else await read_form(request)
        next_ = own_page(fields.get("next", ""))
        if "token" not in fields:
            return _ask(request, next_)
        if not access.is_token(fields["token"].strip()):
            refusals.note("wrong token", request)
            return _ask(request, next_, "Wrong token, or one of an earlier start of the console.", 403)
        asks_name = access.may_write and "name" not in fields
        response = RedirectResponse(f"./name?{urlencode({'next': next_})}" if asks_name else f"./{next_}", 303)
        access.sessions.begin(_name(fields, operator), response)
        return response

    def _ask(request: Request, next_: str, error: str | None = None, status: int = 200) -> Response:
        name = operator if access.may_write else None
        return pages.outside(request, "login.html", status, next=next_, error=error, name=name)

    async def name(request: Request) -> Response:
        fields = dict(request.query_params) if request.method != "POST" else await read_form(request)
        next_, session = own_page(fields.get("next", "")), request.state.visitor.session
        if request.method != "POST":
            return pages.outside(request, "name.html", next=next_, name=session.name)
        response = RedirectResponse(f"./{next_}", 303)
        access.sessions.begin(_name(fields, session.name), response)
        return response

    async def logout(request: Request) -> Response:
        response = RedirectResponse("./login", 303)
        access.sessions.end(request.state.visitor.session, response)
        return response

    return [
        Route("/login", login, methods=["GET", "POST"]),
        *([Route("/name", name, methods=["GET", "POST"])] if access.may_write else []),
        Route("/logout", logout, methods=["POST"]),
    ]


def _name(fields: dict[str, str], otherwise: str) -> str:
    return fields.get("name", "").strip()[:MAX_NAME_LENGTH] or otherwise


async def read_form(request: Request) -> dict[str, str]:
    """Returns the fields of a form; of several with one name, the last."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_FORM_BYTES:
            raise HTTPException(413, "The form is too long.")
    return dict(parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True))
