"""`dispatcher dead-letters aftermath`: what became of the dead letters that were replayed."""

from dataclasses import asdict, dataclass, replace
from typing import Annotated

import typer

from dispatcher.cli.database import checked
from dispatcher.cli.dead_letter_filter import Choice, Ids, with_choice
from dispatcher.cli.exits import CommandFailed, Exit
from dispatcher.cli.options import AsJson, parse_since
from dispatcher.cli.output import number, print_facts, print_json
from dispatcher.inspection.aftermath import Aftermath, Replays, aftermath
from dispatcher.settings.settings import load_settings

app = typer.Typer()

_SINCE = "Replayed no longer ago than this: 24h, or a time (UTC)."
ReplayedSince = Annotated[str | None, typer.Option("--since", metavar="WHEN", help=_SINCE)]
_UNTIL = "Replayed longer ago than this: 10m, or a time (UTC)."
ReplayedUntil = Annotated[str | None, typer.Option("--until", metavar="WHEN", help=_UNTIL)]
ReplayedBy = Annotated[str | None, typer.Option("--by", metavar="NAME", help="Replayed by this person.")]


@dataclass(frozen=True, slots=True)
class ChoiceOfReplays(Choice):
    since: ReplayedSince = None


@app.command("aftermath")
@with_choice
def aftermath_(
    choice: ChoiceOfReplays,
    id_: Ids = None,
    until: ReplayedUntil = None,
    by: ReplayedBy = None,
    as_json: AsJson = False,
) -> None:
    """Show what became of replayed dead letters.

    Their changes were delivered, still wait, or have died again. A resource or installation counts once, since its newest replay. Exit
    code 3 if none that matches was replayed.

    \b
    dispatcher dead-letters aftermath --since 1h
    dispatcher dead-letters aftermath --id 7
    """
    with checked(load_settings()) as database:
        wanted = replace(choice, since=None).filter(database, id_)
        began, ended = parse_since(choice.since, database.now), parse_since(until, database.now, "--until")
        found = aftermath(database, Replays(wanted, began, by, ended))
    if not found.dead_letters:
        raise CommandFailed("no dead letter that matches was replayed", Exit.NOTHING_MATCHED)
    if as_json:
        print_json(asdict(found))
        return
    print_facts(
        [
            ("replayed", number(found.dead_letters, "dead letter")),
            ("delivered", found.delivered),
            ("waiting", found.waiting),
            ("died again", _died_again(found)),
        ]
    )
    if not found.complete:
        typer.echo(
            "only the newest replays and the first events of the outbox were read: narrow the filter, or look again later",
            err=True,
        )


def _died_again(found: Aftermath) -> str:
    ids = found.dead_letter_ids
    more = ", …" if len(ids) < found.died_again else ""
    return f"{found.died_again:,} (dead letters {', '.join(map(str, ids))}{more})" if ids else "0"
