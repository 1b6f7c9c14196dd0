"""Options that several commands share."""

from typing import Annotated, Literal

import typer

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
