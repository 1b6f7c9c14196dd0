"""The page *System*: the dispatchers, the database and its schema, the clocks, and the settings with their sources."""

import platform

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from dispatcher.console.now import last_request_at
from dispatcher.console.pages import Pages
from dispatcher.console.reading import Reading
from dispatcher.inspection.system import read_system
from dispatcher.settings.durations import age
from dispatcher.settings.settings import describe

_DEFAULT = "default"
_SAME_CLOCK_SECONDS = 1.0


def route(pages: Pages) -> Route:
    """Returns the page's route."""
    return pages.route("/system", _show)


async def _show(pages: Pages, request: Request, reading: Reading) -> Response:
    found = await pages.reader.ask(read_system)
    lines = describe(pages.settings)
    values = {
        "command_words": ("check", "--all"),
        "system": found,
        "last_at": last_request_at(reading.status),
        "clocks": clocks(found.clock_ahead),
        "python": platform.python_version(),
        "chosen": [line for line in lines if line.source != _DEFAULT],
        "defaults": [line for line in lines if line.source == _DEFAULT],
    }
    return pages.page(request, "system.html", reading, values)


def clocks(ahead: float) -> str:
    """Says how far the database's clock is ahead of this machine's, in seconds; to the second, so that the page stays the same."""
    apart = round(abs(ahead))
    if abs(ahead) < _SAME_CLOCK_SECONDS:
        return "agree to the second"
    return f"the database’s is {age(apart)} {'ahead' if ahead > 0 else 'behind'}"
