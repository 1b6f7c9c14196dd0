"""The options that choose dead letters, which several commands share."""

from typing import Annotated

import typer

from dispatcher.cli.options import parse_since
from dispatcher.database.transactions import Database
from dispatcher.policy.decision import DeadLetterReason
from dispatcher.store.dead_letters import Filter

MAX_ID = 2**63 - 1
MAX_STATUS = 999

DeadLetterId = typer.Option("--id", min=1, max=MAX_ID, metavar="ID", help="This dead letter; repeatable.")
Ids = Annotated[list[int] | None, DeadLetterId]
OfReason = Annotated[DeadLetterReason | None, typer.Option("--reason", help="Those with this reason.")]
_STATUS = "Those whose last answer had this HTTP status; 0: none came."
OfStatus = Annotated[
    int | None, typer.Option("--status", min=0, max=MAX_STATUS, metavar="CODE", help=_STATUS, show_default=False)
]
_ERROR = 'Those whose error begins with exactly this text; "": without one.'
OfError = Annotated[str | None, typer.Option("--error", metavar="TEXT", help=_ERROR)]


def chosen(
    database: Database,
    ids: list[int] | None,
    installation: str | None,
    resource: str | None,
    reason: DeadLetterReason | None,
    status: int | None,
    error: str | None,
    since: str | None,
    before: int | None = None,
) -> Filter:
    """Returns the filter that the options mean. Raises CommandFailed if `since` cannot be read."""
    return Filter(
        ids or (),
        installation,
        resource,
        reason,
        parse_since(since, database.now),
        status=status,
        error_prefix=error,
        before=before,
    )
