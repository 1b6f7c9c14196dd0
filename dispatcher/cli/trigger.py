"""`dispatcher trigger`: a trigger that announces changes of the partner's own table."""

from typing import Annotated

import typer

from dispatcher.cli.exits import CommandFailed, Exit
from dispatcher.cli.options import DialectName
from dispatcher.outbox.trigger import UnusableName, Watched, trigger_sql

app = typer.Typer()


@app.command()
def trigger(
    dialect: DialectName,
    table: Annotated[
        str, typer.Option(metavar="T", help="Your table, each row of which is a resource: NAME or SCHEMA.NAME.")
    ],
    installation_column: Annotated[
        str, typer.Option(metavar="C", help="Its column with Vercel's id of the installation.")
    ],
    resource_column: Annotated[str, typer.Option(metavar="C", help="Its column with your id of the resource.")],
    when_changed: Annotated[
        str | None,
        typer.Option(
            metavar="A,B", help="Announce only updates that change one of these columns.  [default: every update]"
        ),
    ] = None,
    schema: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="The schema (MySQL: database) of vercel_outbox, if it is not found without one."
        ),
    ] = None,
) -> None:
    """Print a trigger that announces changes of your own table.

    The trigger writes an event into the outbox whenever a row of the table is inserted, updated or deleted, so no code path can
    forget it. Rows whose installation or resource id is NULL are ignored. Its events name no product; if your code publishes one
    for the same resource, that is sent. Names are used exactly as written. Running the SQL again replaces the trigger.

    \b
    dispatcher trigger --dialect postgresql --table databases --installation-column installation_id \\
      --resource-column id --when-changed name,status | psql "$DATABASE_URL"
    """
    if dialect == "sqlite" and schema is not None:
        raise CommandFailed("--schema is not for SQLite: its triggers stay within their own file", Exit.USAGE)
    columns = [name.strip() for name in when_changed.split(",")] if when_changed is not None else []
    try:
        watched = Watched(table, installation_column, resource_column, columns, schema)
    except UnusableName as unusable:
        raise CommandFailed(str(unusable), Exit.USAGE) from None
    typer.echo(trigger_sql(dialect, watched), nl=False)
