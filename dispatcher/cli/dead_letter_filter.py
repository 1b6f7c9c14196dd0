"""The options that choose dead letters, which several commands share."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from inspect import Signature, signature
from typing import Annotated, Any

import typer

from dispatcher.cli.options import OfInstallation, OfResource, Since, parse_since
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


@dataclass(frozen=True, slots=True)
class Choice:
    """The values of the options that every command on several dead letters has."""

    installation: OfInstallation = None
    resource: OfResource = None
    reason: OfReason = None
    status: OfStatus = None
    error: OfError = None
    since: Since = None

    def filter(self, database: Database, ids: Sequence[int] | None = None, before: int | None = None) -> Filter:
        """Returns what they select. Raises CommandFailed if `since` cannot be read."""
        return Filter(
            ids or (),
            self.installation,
            self.resource,
            self.reason,
            parse_since(self.since, database.now),
            status=self.status,
            error_prefix=self.error,
            before=before,
        )


def with_choice(command: Callable[..., None]) -> Callable[..., None]:
    """Gives the command the options of its first parameter, a `Choice`, each by itself: typer knows no groups of options."""
    choice, *own = signature(command).parameters.values()
    options = signature(choice.annotation).parameters

    @wraps(command)
    def run(**given: Any) -> None:
        command(choice.annotation(**{name: given.pop(name) for name in options}), **given)

    run.__signature__ = Signature([*options.values(), *own])  # type: ignore[attr-defined]  # typer reads it
    return run
