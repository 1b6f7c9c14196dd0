"""Options that several commands share."""

from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Literal

import typer

from dispatcher.cli.exits import CommandFailed, Exit
from dispatcher.settings import durations

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object per line; its keys are stable.")]
Dialects = Literal["postgresql", "mysql", "mariadb", "sqlite"]
DialectName = Annotated[Dialects, typer.Option("--dialect", metavar="D", help="postgresql, mysql, mariadb or sqlite.")]
DialectNameOrNone = Annotated[
    Dialects | None,
    typer.Option(
        "--dialect",
        metavar="D",
        help="postgresql, mysql, mariadb or sqlite.  [default: that of DISPATCHER_DATABASE_URL]",
    ),
]
Limit = Annotated[int, typer.Option("--limit", min=1, max=100_000, help="Print at most this many.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Count only; change nothing.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")]
OfInstallation = Annotated[
    str | None, typer.Option("--installation", metavar="icfg_…", help="Those of this installation.")
]
OfResource = Annotated[str | None, typer.Option("--resource", metavar="ID", help="Those of this resource.")]
Since = Annotated[
    str | None,
    typer.Option("--since", metavar="WHEN", help="No older than this: 24h, or a time such as 2026-01-31T12:00 (UTC)."),
]
Until = Annotated[
    str | None,
    typer.Option("--until", metavar="WHEN", help="Older than this: 10m, or a time such as 2026-01-31T12:00 (UTC)."),
]


def parse_since(text: str | None, now: Callable[[], datetime], option: str = "--since") -> datetime | None:
    """Returns the time that the option means, see `durations.parse_since`; None without it. Raises CommandFailed."""
    try:
        return None if text is None else durations.parse_since(text, now)
    except ValueError as error:
        raise CommandFailed(f"{option} {error}", Exit.USAGE) from None
