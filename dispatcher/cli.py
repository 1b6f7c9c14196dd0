"""The commands. Results go to stdout, what goes wrong to stderr in one line."""

import sys
from typing import Annotated

import typer
from sqlalchemy.exc import DBAPIError

from dispatcher import schema
from dispatcher.database import is_unreachable, open_database
from dispatcher.dialects import UnusableDatabaseUrl
from dispatcher.settings import SettingsError, load_settings

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)


@app.callback()
def dispatcher() -> None:
    """Delivers Vercel Marketplace events from a transactional outbox."""


@app.command()
def migrate(sql: Annotated[bool, typer.Option("--sql", help="Print the SQL instead of running it.")] = False) -> None:
    """Bring the database to the newest schema. Any number of these at once migrate once."""
    settings = load_settings()
    database = open_database(settings.database_url.get_secret_value(), settings.database_schema)
    if sql:
        typer.echo(schema.migration_sql(database.dialect.name, settings.database_schema))
    else:
        typer.echo(f"the database is at schema {schema.migrate(database)}")


@app.command("schema")
def print_schema(dialect: Annotated[str, typer.Option(help="postgresql, mysql or sqlite")]) -> None:
    """Print the tables as SQL, for partners who create them by other means."""
    typer.echo(schema.ddl(dialect))


def main() -> None:
    """Entry point: every known fault becomes one line and its exit code."""
    try:
        app()
    except (SettingsError, UnusableDatabaseUrl) as error:
        _fail(str(error), 2)
    except schema.UnusableSchema as error:
        _fail(str(error), 1)
    except DBAPIError as error:
        if is_unreachable(error):
            _fail("the database cannot be reached: is it running, and does DISPATCHER_DATABASE_URL name it?", 75)
        _fail(f"the database refused: {type(error.orig).__name__}", 1)


def _fail(why: str, code: int) -> None:
    typer.echo(f"dispatcher: {why}", err=True)
    sys.exit(code)
