"""The search field: leads from an id, as it stands in a log or a ticket, to the page that knows it."""

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from dispatcher.telemetry.console_links import explain_link, installation_link

_INSTALLATION = "icfg_"


async def search(request: Request) -> Response:
    """Redirects to a dead letter, to an installation, or to the history of a resource."""
    return RedirectResponse(f"./{find(request.query_params.get('q', '').strip())}", 303)


def find(text: str) -> str:
    """Returns the URL of the page for this text, relative to the console's root."""
    if not text:
        return ""
    if text.isascii() and text.isdigit():
        return f"dead-letters/{text}"
    return installation_link(text) if text.startswith(_INSTALLATION) else explain_link(text)


route = Route("/search", search)
