"""The pages of actions: a plan, which changes nothing, and the form on it that carries it out."""

from collections.abc import Mapping
from dataclasses import replace
from urllib.parse import urlencode

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from dispatcher.console.fields import UnusableFilter
from dispatcher.console.links import own_page
from dispatcher.console.login import read_form
from dispatcher.console.operations import Operations
from dispatcher.console.pages import Pages
from dispatcher.console.plan_tokens import PlanTokens
from dispatcher.console.proposals import MAX_NOTE_LENGTH, PROPOSE, NothingToDo, Proposal, note_of
from dispatcher.console.reading import Reading, Unreadable

_INVALID = "the plan was older than ten minutes, of another login, or not the one that was shown. Below is what would be done now"


def route(pages: Pages, operations: Operations, tokens: PlanTokens) -> Route:
    """Returns the route of all actions: `/actions/replay?reason=gone`."""

    async def act(request: Request) -> Response:
        if request.path_params["action"] not in PROPOSE:
            raise HTTPException(404)
        if not request.state.visitor.may_write:
            return only_for_operators(pages, request)
        actions = _Actions(pages, operations, tokens, request)
        try:
            reading = await pages.reader.status()
            return await (actions.confirm if request.method == "POST" else actions.show)(reading)
        except Unreadable as error:
            return pages.unreadable(request, str(error))
        except UnusableFilter as error:
            return pages.trouble(request, 400, "These dead letters cannot be selected", f"{error.field} {error}.")
        except NothingToDo as error:
            return pages.trouble(request, 404, "There is nothing to do", str(error))

    return Route("/actions/{action}", act, methods=["GET", "POST"])


def only_for_operators(pages: Pages, request: Request) -> Response:
    """Returns the page for people who may only look."""
    why = "To let a person change something, add the name under which the proxy knows them to DISPATCHER_CONSOLE_OPERATORS."
    return pages.trouble(request, 403, "This is for operators", why)


class _Actions:
    """Answers one request."""

    def __init__(self, pages: Pages, operations: Operations, tokens: PlanTokens, request: Request) -> None:
        self._pages = pages
        self._operations = operations
        self._tokens = tokens
        self._request = request
        self._visitor = request.state.visitor

    async def show(self, reading: Reading) -> Response:
        """Answers with the plan."""
        return self._page(reading, await self._propose(reading))

    async def confirm(self, reading: Reading) -> Response:
        """Starts the operation, if the form is that of a plan which is still true; otherwise answers with the plan of now."""
        fields = await read_form(self._request)
        action, scope = self._request.path_params["action"], self._scope
        promise = self._tokens.read(self._visitor, action, scope, fields.get("plan", ""))
        if promise is None or reading.refusal is not None:
            return self._page(reading, await self._propose(reading), 403, reading.refusal or _INVALID)
        try:
            proposal = await self._propose(reading, promise.last_id)
        except NothingToDo:
            why = "Everything that the plan has shown was resolved meanwhile."
            return self._pages.trouble(self._request, 409, "There is nothing left to do", why)
        left = proposal.promise.number
        if left != promise.number:
            return self._page(reading, proposal, 409, _difference(promise.number, left))
        if errors := proposal.complaints(fields):
            return self._page(reading, proposal, 400, errors=errors, fields=fields)
        signature = self._visitor.sign(note_of(fields))
        operation = self._operations.start(proposal.work, signature, self._pages.reader.now(reading))
        return RedirectResponse(f"../operations/{operation.number}", 303)

    @property
    def _scope(self) -> str:
        return urlencode([pair for pair in self._request.query_params.multi_items() if pair[0] != "from"])

    async def _propose(self, reading: Reading, until: int | None = None) -> Proposal:
        propose = PROPOSE[self._request.path_params["action"]]
        settings, query, now = self._pages.settings, self._request.query_params, self._pages.reader.now(reading)
        proposal = await self._pages.reader.ask(lambda database: propose(database, settings, query, now, until))
        origin = own_page(query.get("from", "")) or proposal.work.origin
        return replace(proposal, work=replace(proposal.work, origin=origin))

    def _page(
        self,
        reading: Reading,
        proposal: Proposal,
        status: int = 200,
        notice: str | None = None,
        errors: Mapping[str, str] | None = None,
        fields: Mapping[str, str] | None = None,
    ) -> Response:
        values = {
            "proposal": proposal,
            "action": proposal.work.action,
            "token": self._tokens.issue(self._visitor, proposal.promise),
            "notice": notice,
            "errors": errors or {},
            "fields": fields or {},
            "max_note": MAX_NOTE_LENGTH,
            "command_words": proposal.command_words,
            "is_live": False,
            **proposal.details,
        }
        return self._pages.page(self._request, "plan.html", reading, values, status=status)


def _difference(promised: int, found: int) -> str:
    """Returns why the plan is not true any more. More letters than promised: one got its id earlier, and was committed later."""
    if found < promised:
        return f"{promised - found:,} of {promised:,} were resolved meanwhile, which leaves {found:,}"
    return f"{found - promised:,} more have died meanwhile, which makes {found:,}"
