"""`dispatcher trigger`: a trigger that announces changes of the partner's own table."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Annotated, Literal

import typer

from dispatcher.cli.database import checked, is_named, opened
from dispatcher.cli.exits import CommandFailed, Exit
from dispatcher.cli.options import DialectNameOrNone
from dispatcher.cli.output import number
from dispatcher.database.engine import dialect_of
from dispatcher.database.transactions import Database
from dispatcher.database.triggers import UnfitTrigger, UnusableTrigger, create, locate, script_dialect
from dispatcher.outbox.events import INSTALLATION_UPDATED, RESOURCE_UPDATED
from dispatcher.outbox.trigger import Column, Expression, Source, UnusableName, Watched, script
from dispatcher.settings.settings import Settings, load_settings

app = typer.Typer()
_TABLE_HELP = "Your table, each row of which is a resource: NAME or SCHEMA.NAME."


@app.command()
def trigger(
    table: Annotated[str, typer.Option(metavar="T", help=_TABLE_HELP)],
    type_: Annotated[
        Literal["resource.updated", "installation.updated"],
        typer.Option("--type", metavar="TYPE", help="installation.updated: each row of the table is an installation."),
    ] = "resource.updated",
    installation_column: Annotated[
        str | None, typer.Option(metavar="C", help="Its column with Vercel's id of the installation.")
    ] = None,
    installation_expression: Annotated[
        str | None,
        typer.Option(
            metavar="SQL", help="Instead: SQL for that id, with the row's columns as NEW.column; a sub-select, too."
        ),
    ] = None,
    resource_column: Annotated[
        str | None, typer.Option(metavar="C", help="Its column with your id of the resource.")
    ] = None,
    resource_expression: Annotated[
        str | None, typer.Option(metavar="SQL", help="Instead: SQL for that id, for example if the column holds bytes.")
    ] = None,
    product_column: Annotated[
        str | None, typer.Option(metavar="C", help="Its column with your id of the resource's product.")
    ] = None,
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
    dialect: DialectNameOrNone = None,
    is_applied: Annotated[
        bool, typer.Option("--apply", help="Create the trigger in DISPATCHER_DATABASE_URL instead of printing it.")
    ] = False,
) -> None:
    """Print or create a trigger that announces changes.

    The trigger writes an event into the outbox whenever a row of the table is inserted, updated or deleted, so no code path can
    forget it. Rows whose installation or resource id is NULL or empty are ignored. Names are used exactly as written. Running it
    again replaces the trigger, and announces every change in between.

    If DISPATCHER_DATABASE_URL is set, the columns are checked there. --apply also fires the trigger for copies of some rows and
    rolls that back, before the table gets it; `dispatcher check` reports a trigger that is lost later.

    \b
    dispatcher trigger --table resources --resource-column id --when-changed name,status --apply \\
      --installation-expression "SELECT a.installation_id FROM accounts a WHERE a.id = NEW.account_id"
    """
    with _refused():
        watched = Watched(
            table,
            _source("installation", installation_column, installation_expression),
            _resource(type_, resource_column, resource_expression),
            None if product_column is None else Column(product_column),
            tuple(name.strip() for name in when_changed.split(",")) if when_changed is not None else (),
            schema,
        )
        if is_applied:
            _apply(watched, dialect)
        else:
            typer.echo(_script(watched, dialect), nl=False)


@contextmanager
def _refused() -> Iterator[None]:
    try:
        yield
    except (UnusableName, UnfitTrigger) as wrong:
        raise CommandFailed(str(wrong), Exit.USAGE) from None
    except UnusableTrigger as refused:
        raise CommandFailed(str(refused)) from None


def _source(name: str, column: str | None, expression: str | None) -> Source:
    if (column is None) == (expression is None):
        raise CommandFailed(f"give either --{name}-column or --{name}-expression", Exit.USAGE)
    return Expression(expression) if column is None and expression is not None else Column(str(column))


def _resource(type_: str, column: str | None, expression: str | None) -> Source | None:
    if type_ == RESOURCE_UPDATED:
        return _source("resource", column, expression)
    if column is not None or expression is not None:
        raise CommandFailed(f"an event of the type {INSTALLATION_UPDATED} names no resource", Exit.USAGE)
    return None


def _apply(watched: Watched, dialect: str | None) -> None:
    settings = load_settings()
    if dialect is not None and not _is_of(settings, dialect):
        raise CommandFailed(f"DISPATCHER_DATABASE_URL does not lead to {dialect}: leave out --dialect", Exit.USAGE)
    with checked(settings) as database:
        made = create(database, _in_schema_of(database, watched))
    if made.warning is not None:
        typer.echo(f"warning: {made.warning}", err=True)
    table = made.watched.table
    if made.tried_rows is None:
        typer.echo(f"the trigger on {table} was in place already")
    else:
        typer.echo(f"the trigger on {table} is in place, after a trial with {number(made.tried_rows, 'row')}")


def _script(watched: Watched, dialect: str | None) -> str:
    """Returns the SQL. If the settings name a database of this dialect, the columns are checked there."""
    if is_named():
        settings = load_settings()
        if dialect is None or _is_of(settings, dialect):
            with opened(settings) as database, database.read() as connection:
                located = locate(connection, database.dialect, _in_schema_of(database, watched))
                return str(script(dialect or script_dialect(connection), located))
    if dialect is None:
        raise CommandFailed("name the database with --dialect, or set DISPATCHER_DATABASE_URL", Exit.USAGE)
    if dialect == "sqlite":
        _refuse_schema(watched)
    return str(script(dialect, watched))


def _is_of(settings: Settings, dialect: str) -> bool:
    return dialect_of(settings.database_url.get_secret_value()).name == dialect_of(dialect).name


def _in_schema_of(database: Database, watched: Watched) -> Watched:
    """Returns it with the schema of the database's outbox, unless it names one."""
    if database.dialect.name == "sqlite":
        _refuse_schema(watched)
    return watched if watched.outbox_schema is not None else replace(watched, outbox_schema=database.schema)


def _refuse_schema(watched: Watched) -> None:
    if watched.outbox_schema is not None:
        raise CommandFailed("--schema is not for SQLite: its triggers stay within their own file", Exit.USAGE)
