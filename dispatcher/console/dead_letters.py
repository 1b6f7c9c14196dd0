"""The pages of dead letters: their causes, the list with its filters, which are all in the URL, and one of them with its attempts."""

from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from dispatcher.console.dead_letter_filter import MAX_ID, Wanted
from dispatcher.console.fields import UnusableFilter
from dispatcher.console.pages import Pages
from dispatcher.console.reading import MAX_READ_DEAD_LETTERS, Reading, TooSlow
from dispatcher.inspection.causes import MAX_CAUSES, causes
from dispatcher.inspection.dead_letters import ADVICE, DeadLetter, find_dead_letter, list_dead_letters
from dispatcher.policy.decision import DeadLetterReason
from dispatcher.settings.durations import age
from dispatcher.store.dead_letters import Filter


def routes(pages: Pages) -> list[Route]:
    """Returns the routes of the pages."""
    return [pages.route("/dead-letters", _list), pages.route("/dead-letters/{id:int}", _show)]


async def _list(pages: Pages, request: Request, reading: Reading) -> Response:
    wanted = Wanted.of(request.query_params)
    values: dict[str, object] = {
        "wanted": wanted,
        "reasons": list(DeadLetterReason),
        "command_words": wanted.command_words,
        "errors": {},
        "slow": None,
    }
    try:
        selected = wanted.filter(pages.reader.now(reading))
    except UnusableFilter as error:
        values |= {"letters": [], "errors": {error.field: str(error)}}
        return pages.page(request, "dead_letters.html", reading, values, status=400)
    try:
        values |= await (_read_letters if wanted.is_list else _read_causes)(pages, wanted, selected)
    except TooSlow as error:
        values |= {"letters": [], "slow": str(error)}
        return pages.page(request, "dead_letters.html", reading, values, status=503)
    return pages.page(request, "dead_letters.html" if wanted.is_list else "causes.html", reading, values)


async def _read_causes(pages: Pages, _: Wanted, selected: Filter) -> dict[str, object]:
    found = await pages.reader.ask(lambda database: causes(database, selected, MAX_CAUSES, MAX_READ_DEAD_LETTERS))
    return {"found": found, "advice": {one.reason: ADVICE[DeadLetterReason(one.reason)] for one in found.largest}}


async def _read_letters(pages: Pages, wanted: Wanted, selected: Filter) -> dict[str, object]:
    letters = await pages.reader.ask(
        lambda database: list_dead_letters(database, selected, wanted.limit, resolved=wanted.with_resolved)
    )
    is_cut = len(letters) == wanted.limit
    # Without a key, the first page has the unresolved ones first, so that none follows it.
    has_older = is_cut and bool(wanted.before or not wanted.with_resolved)
    return {
        "letters": letters,
        "is_cut": is_cut,
        "older": wanted.older(letters[-1].id) if has_older else None,
        "advice": _advice(letters),
    }


def _advice(letters: Sequence[DeadLetter]) -> str | None:
    """Returns what to do about the unresolved ones, if all of them died for the same reason."""
    reasons = {one.reason for one in letters if one.resolution is None}
    return ADVICE[DeadLetterReason(reasons.pop())] if len(reasons) == 1 else None


async def _show(pages: Pages, request: Request, reading: Reading) -> Response:
    id_: int = request.path_params["id"]
    found = None
    if id_ <= MAX_ID:
        found = await pages.reader.ask(lambda database: find_dead_letter(database, id_))
    if found is None:
        kept = age(pages.settings.dead_letter_retention)
        return pages.trouble(
            request, 404, f"There is no dead letter {id_}", f"Resolved ones are kept for {kept} after their resolution."
        )
    letter, attempts = found
    values = {
        "letter": letter,
        "wanted": Wanted(id=str(id_)),
        "attempts": attempts,
        "advice": ADVICE[DeadLetterReason(letter.reason)],
        "command_words": ("dead-letters", "show", str(id_)),
    }
    return pages.page(request, "dead_letter.html", reading, values)
