"""The confirmation before many rows are changed, and the progress while they are."""

import sys
from collections.abc import Callable

import typer

from dispatcher.cli.exits import CommandFailed, Exit


def confirm(question: str, *, yes: bool) -> None:
    """Asks on the terminal, unless `yes`. Raises CommandFailed if the answer is no, or if stdin is not a terminal."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise CommandFailed(
            f"{question} There is no terminal to answer on: add --yes, or --dry-run to count only", Exit.USAGE
        )
    if not typer.confirm(question, err=True):
        raise CommandFailed("nothing was changed")


def progress(total: int) -> Callable[[int], None]:
    """Returns a function that shows on a terminal how many rows are done; into a log it writes nothing."""

    def show(done: int) -> None:
        if sys.stderr.isatty():
            typer.echo(f"\r{done:,} of {total:,}", err=True, nl=done >= total)

    return show
