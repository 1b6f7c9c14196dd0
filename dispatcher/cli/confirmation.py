"""What commands say before and while they change many rows."""

import sys
from collections.abc import Callable

import typer

from dispatcher.cli.exits import CommandFailed, Exit


def confirm(question: str, *, yes: bool) -> None:
    """Asks on the terminal, unless `yes`. Raises CommandFailed if the answer is no, or if nobody is there to answer."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise CommandFailed(f"{question} Nobody is there to answer: add --yes, or --dry-run to count only", Exit.USAGE)
    if not typer.confirm(question, err=True):
        raise CommandFailed("nothing was changed")


def progress(total: int) -> Callable[[int], None]:
    """Tells a person at the terminal how many of the rows are done; says nothing in a log."""

    def tell(done: int) -> None:
        if sys.stderr.isatty():
            typer.echo(f"\r{done:,} of {total:,}", err=True, nl=done >= total)

    return tell
