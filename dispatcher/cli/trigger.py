"""`dispatcher trigger`: a trigger on the partner's own table."""

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
        str, typer.Option(metavar="T", help="Your table, a row of which is a resource: NAME or SCHEMA.NAME.")
    ],
    installation_column: Annotated[str, typer.Option(metavar="C", help="Its column with the installation's id.")],
    resource_column: Annotated[str, typer.Option(metavar="C", help="Its column with your id of the resource.")],
    when_changed: Annotated[
        str | None,
        typer.Option(metavar="A,B", help="Only updates that change one of these columns.  [default: every update]"),
    ] = None,
    schema: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The schema (MySQL: database) of vercel_outbox, if it needs naming."),
    ] = None,
) -> None:
    """Print a trigger that writes the outbox row whenever a row of your table is inserted, updated or deleted.

    So no code path can forget it. Rows whose installation or resource id is NULL write nothing. It names no product: one that
    your code publishes for the same resource is sent all the same. Names are taken as they are written, in upper and lower
    case. Run again, the SQL replaces what it made before.

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
