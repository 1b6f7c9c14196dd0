"""`dispatcher dead-letters causes`: what the unresolved dead letters have in common."""

import shlex
from dataclasses import asdict

import typer

from dispatcher.cli.database import checked
from dispatcher.cli.dead_letter_filter import Choice, with_choice
from dispatcher.cli.exits import CommandFailed, Exit
from dispatcher.cli.options import AsJson, Limit
from dispatcher.cli.output import number, print_columns, print_json
from dispatcher.inspection.causes import MAX_CAUSES, Cause, causes
from dispatcher.settings.settings import load_settings
from dispatcher.store.dead_letters import NO_ERROR, NO_STATUS

app = typer.Typer()


@app.command("causes")
@with_choice
def causes_(
    choice: Choice,
    limit: Limit = MAX_CAUSES,
    as_json: AsJson = False,
) -> None:
    """Group unresolved dead letters by their cause.

    The largest group comes first. A cause is the reason, the last status, and the last error up to the first number or id in it. Each is
    shown with the command that lists its dead letters; `replay` and `discard` take the same options. Exit code 3 if there are none.

    \b
    dispatcher dead-letters causes --since 24h
    """
    with checked(load_settings()) as database:
        wanted = choice.filter(database)
        found = causes(database, wanted, limit)
    if not found.largest:
        none = "no unresolved dead letter matches" if wanted.conditions else "no unresolved dead letters"
        raise CommandFailed(none, Exit.NOTHING_MATCHED)
    others = {"--installation": choice.installation, "--resource": choice.resource, "--since": choice.since}
    commands = [_command(one, others) for one in found.largest]
    if as_json:
        for one, command in zip(found.largest, commands, strict=True):
            print_json({**asdict(one), "command": command})
    else:
        header = ("dead letters", "installations", "first (UTC)", "last (UTC)", "command")
        print_columns(header, map(_row, found.largest, commands), wraps=False)
    if not found.complete:
        read = number(found.dead_letters, "dead letter")
        typer.echo(f"only {read} were read: the numbers are lower bounds; narrow the filter", err=True)
    if found.total > limit:
        typer.echo(f"the first {limit:,} of {number(found.total, 'cause')} are listed: --limit", err=True)


def _row(one: Cause, command: str) -> tuple[object, ...]:
    return (one.number, one.installations, one.first_died_at, one.last_died_at, command)


def _command(one: Cause, others: dict[str, str | None]) -> str:
    """Returns the command that lists the dead letters of the cause, among those that the other options choose."""
    status, error = one.status or NO_STATUS, one.error_prefix or NO_ERROR
    options = {"--reason": one.reason, "--status": str(status), "--error": error, **others}
    words = [word for name, value in options.items() if value is not None for word in (name, value)]
    return shlex.join(["dispatcher", "dead-letters", "list", *words])
