"""`dispatcher migrate` and `dispatcher schema`: create the tables, or print them as SQL."""

from typing import Annotated

import typer

from dispatcher.cli.database import opened
from dispatcher.cli.exits import CommandFailed, Exit
from dispatcher.cli.options import DialectName
from dispatcher.database import migration, revisions, schema
from dispatcher.database.notifier import trigger_sql
from dispatcher.settings.settings import load_settings
from dispatcher.settings.values import parse_schema

app = typer.Typer()


@app.command()
def migrate(sql: Annotated[bool, typer.Option("--sql", help="Print the SQL instead of running it.")] = False) -> None:
    """Create the dispatcher's tables, or bring them up to date.

    It is safe to start several at once, for example from every replica: the migration runs once.
    """
    with opened(load_settings()) as database:
        if sql:
            typer.echo(migration.migration_sql(database.dialect.name, database.schema))
        else:
            revision = migration.migrate(database)
            newer = (
                f", which is newer than this program ({revisions.newest()}) and fits"
                if revision > revisions.newest()
                else ""
            )
            typer.echo(f"the database is at schema {revision}{newer}")


@app.command("schema")
def print_schema(
    dialect: DialectName,
    schema_name: Annotated[
        str | None, typer.Option("--schema", metavar="NAME", help="PostgreSQL: the schema of the tables.")
    ] = None,
    wakeup: Annotated[
        bool, typer.Option("--wakeup", help="PostgreSQL: only the trigger for DISPATCHER_WAKEUP=notify.")
    ] = False,
) -> None:
    """Print the tables as SQL, to create them yourself.

    \b
    dispatcher schema --dialect mysql
    dispatcher schema --dialect postgresql --wakeup | psql "$DISPATCHER_DATABASE_URL"
    """
    if dialect != "postgresql" and (schema_name or wakeup):
        raise CommandFailed("--schema and --wakeup go with --dialect postgresql only", Exit.USAGE)
    if schema_name is not None:
        schema_name = _read_name(schema_name)
    typer.echo(trigger_sql(schema_name).rstrip() if wakeup else schema.ddl(dialect, schema_name))


def _read_name(text: str) -> str:
    try:
        return parse_schema(text)
    except ValueError as error:
        raise CommandFailed(f"--schema {error}", Exit.USAGE) from None
