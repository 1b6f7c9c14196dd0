"""`dispatcher explain`: what happened to a resource or an installation, and what happens next."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated

import typer

from dispatcher.cli.database import checked
from dispatcher.cli.exits import CommandFailed, Exit
from dispatcher.cli.options import AsJson, Limit
from dispatcher.cli.output import print_columns, print_json, shown
from dispatcher.inspection.entries import Entry
from dispatcher.inspection.explanation import explain as find_explanation
from dispatcher.inspection.graces import Graces
from dispatcher.settings.settings import load_settings

app = typer.Typer()


@app.command()
def explain(
    name: Annotated[
        str,
        typer.Argument(
            metavar="RESOURCE_OR_INSTALLATION", help="The id of a resource or an installation.", show_default=False
        ),
    ],
    installation: Annotated[
        str | None,
        typer.Option(metavar="icfg_…", help="The resource's installation: makes the search faster and unambiguous."),
    ] = None,
    limit: Limit = 100,
    as_json: AsJson = False,
) -> None:
    """Show what happened to a resource, and what happens next.

    Prints everything that is known about a resource or an installation, oldest first, then what happens next and when. Times are
    in UTC. Attempts are kept for DISPATCHER_ATTEMPT_RETENTION. Exit code 3 if nothing is known.

    \b
    dispatcher explain db_1
    dispatcher explain db_1 --installation icfg_1
    dispatcher explain icfg_1 --limit 20
    """
    settings = load_settings()
    with checked(settings) as database:
        explanation = find_explanation(database, name, Graces.of(settings), limit, installation)
    if explanation is None:
        raise CommandFailed(f"nothing is known about {shown(name)}", Exit.NOTHING_MATCHED)
    if as_json:
        for entry in (*explanation.happened, *explanation.next):
            print_json(asdict(entry))
        return
    if not explanation.complete:
        typer.echo(f"only the newest {limit:,} entries are shown: raise --limit to see older ones", err=True)
    typer.echo(f"{shown(explanation.about)}\n")
    _print("at (UTC)", explanation.happened)
    typer.echo("")
    if explanation.next:
        _print("next (UTC)", explanation.next)
    elif explanation.idle:
        typer.echo("nothing is waiting, and no dispatcher is running")
    else:
        typer.echo("nothing is waiting: the next event is sent as soon as it arrives")


def _print(time: str, entries: Sequence[Entry]) -> None:
    ids = {
        "installation": [entry.installation_id for entry in entries],
        "resource": [entry.resource_id for entry in entries],
    }
    different = {name: column for name, column in ids.items() if len(set(column)) > 1}
    rows = zip((entry.at for entry in entries), *different.values(), (entry.message for entry in entries), strict=True)
    print_columns((time, *different, "what"), rows)
