"""The page *Explain*: what happened to a resource or an installation, now, and what happens next."""

from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from dispatcher.console import history
from dispatcher.console.pages import Pages
from dispatcher.console.reading import Reading
from dispatcher.inspection.entries import Entry
from dispatcher.inspection.explanation import MAX_NAMED_INSTALLATIONS, Explanation, explain
from dispatcher.inspection.findings import MAX_SCANNED_ROWS
from dispatcher.inspection.graces import Graces
from dispatcher.settings.durations import age
from dispatcher.settings.settings import Settings

LIMIT = 200
_NUL = "\0"
"""PostgreSQL stores no text with it, and refuses to search for it."""


def route(pages: Pages) -> Route:
    """Returns the page's route."""
    return pages.route("/explain", _show)


async def _show(pages: Pages, request: Request, reading: Reading) -> Response:
    name, installation_id = (request.query_params.get(field, "").strip() for field in ("id", "installation"))
    values: dict[str, object] = {
        "name": name,
        "installation": installation_id,
        "explanation": None,
        "kept": _kept(pages.settings),
    }
    if not name:
        return pages.page(request, "explain.html", reading, {**values, "command_words": ("explain", "--help")})
    values["command_words"] = command_of(name, installation_id)
    graces = Graces.of(pages.settings)
    explanation = None
    if _NUL not in name + installation_id:
        explanation = await pages.reader.ask(
            lambda database: explain(database, name, graces, LIMIT, installation_id or None)
        )
    if explanation is None:
        return pages.page(request, "explain.html", reading, values, status=404)
    return pages.page(request, "explain.html", reading, values | _values(explanation))


def command_of(name: str, installation_id: str) -> tuple[str, ...]:
    """Returns the words of the command that explains the same."""
    of_it = ("--installation", installation_id) if installation_id else ()
    return ("explain", name, *of_it, "--limit", str(LIMIT))


def _values(explanation: Explanation) -> dict[str, object]:
    entries = [*explanation.happened, *explanation.next]
    return {
        "explanation": explanation,
        "past": history.fold(explanation.happened),
        "future": history.in_order(explanation.next),
        "columns": _different(entries),
        "linked": explanation.installation_ids[:MAX_NAMED_INSTALLATIONS],
        "limit": LIMIT,
        "scanned": MAX_SCANNED_ROWS,
    }


def _kept(settings: Settings) -> str:
    return (
        f"Attempts are kept for {age(settings.attempt_retention)}"
        if settings.logs_successes
        else "Only failed attempts are kept"
    )


def _different(entries: Sequence[Entry]) -> list[str]:
    """Returns the ids that are not the same everywhere, so that they need a column."""
    ids = {
        "installation": {entry.installation_id for entry in entries},
        "resource": {entry.resource_id for entry in entries},
    }
    return [name for name, different in ids.items() if len(different) > 1]
