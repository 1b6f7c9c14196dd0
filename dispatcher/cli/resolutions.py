"""`dispatcher dead-letters resolutions`: what people did with dead letters, and when."""

import shlex
from dataclasses import asdict

import typer

from dispatcher.cli.database import checked
from dispatcher.cli.exits import CommandFailed, Exit
from dispatcher.cli.options import AsJson, Limit
from dispatcher.cli.output import cut, number, print_columns, print_json
from dispatcher.inspection.resolution_groups import MAX_GROUPED_ROWS, ResolutionGroup, group_resolutions
from dispatcher.settings.settings import load_settings

app = typer.Typer()

MAX_NOTE_LENGTH = 60


@app.command("resolutions")
def resolutions_(limit: Limit = 50, as_json: AsJson = False) -> None:
    """List what people did with dead letters, newest first.

    Dead letters that the same person replayed or discarded in the same minute, for the same reason, are one line. Each has the command
    that shows what became of a replay, or the newest discarded dead letters; a purge discards them, too. Exit code 3 if there are none.

    \b
    dispatcher dead-letters resolutions
    """
    with checked(load_settings()) as database:
        found = group_resolutions(database, limit)
    if as_json:
        for one in found.groups:
            print_json({**asdict(one), "command": command_of(one)})
    elif found.groups:
        header = ("minute (UTC)", "resolution", "dead letters", "by", "note", "command")
        print_columns(header, map(_row, found.groups), wraps=False)
    if not found.complete:
        read = number(MAX_GROUPED_ROWS, "resolved dead letter")
        typer.echo(
            f"only the newest {read} were read: there may be older ones, and the last line may stand for more", err=True
        )
    if not found.groups:
        raise CommandFailed("no dead letter was replayed or discarded", Exit.NOTHING_MATCHED)
    if len(found.groups) == limit:
        typer.echo(f"the first {limit:,} are listed, there may be more: --limit", err=True)


def _row(one: ResolutionGroup) -> tuple[object, ...]:
    note = None if one.note is None else cut(one.note, MAX_NOTE_LENGTH)
    return (f"{one.minute:%Y-%m-%d %H:%M}", one.resolution, one.dead_letters, one.by, note, command_of(one))


def command_of(one: ResolutionGroup) -> str:
    """Returns the command that shows what became of these dead letters."""
    if one.is_replay:
        since, until = (f"{time:%Y-%m-%dT%H:%M}" for time in (one.minute, one.end))
        by = () if one.by is None else ("--by", one.by)
        return shlex.join(["dispatcher", "dead-letters", "aftermath", "--since", since, "--until", until, *by])
    ids = [word for id_ in one.ids for word in ("--id", str(id_))]
    return shlex.join(["dispatcher", "dead-letters", "list", "--resolved", *ids])
