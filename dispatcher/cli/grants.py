"""`dispatcher grants`: the privileges of the database users, as SQL."""

from collections.abc import Iterable
from typing import Annotated, Literal

import typer

from dispatcher.cli.database import is_named
from dispatcher.cli.exits import CommandFailed, Exit
from dispatcher.cli.options import DialectNameOrNone
from dispatcher.database.engine import dialect_of
from dispatcher.inspection import grants as privileges
from dispatcher.settings.settings import load_settings
from dispatcher.settings.values import parse_schema

app = typer.Typer()


@app.command()
def grants(
    application: Annotated[str, typer.Option(metavar="USER", help="Your application's user, which writes events.")],
    dispatcher: Annotated[str, typer.Option(metavar="USER", help="The user of `dispatcher run` and of operators.")],
    migrator: Annotated[str, typer.Option(metavar="USER", help="The user of `dispatcher migrate`.")],
    step: Annotated[
        Literal["before", "after"] | None,
        typer.Option(
            metavar="STEP", help="Only those before or after the first `dispatcher migrate`.  [default: both]"
        ),
    ] = None,
    schema: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The schema (MySQL: database) of the tables.  [default: DISPATCHER_SCHEMA]"),
    ] = None,
    dialect: DialectNameOrNone = None,
) -> None:
    """Print the GRANTs that your database users need.

    They are the least privileges of three users. An administrator runs the first ones before `dispatcher migrate`, the others,
    which name its tables, after it. They grant nothing twice, so after an upgrade you can run all of them again. On MySQL and
    MariaDB a user can be NAME@HOST.

    \b
    dispatcher grants --application app --dispatcher dispatcher --migrator migrator --step before | psql "$ADMIN_URL"
    """
    name, default = _database(dialect)
    if name == "sqlite":
        raise CommandFailed("SQLite has no users: its file's permissions decide who may write", Exit.USAGE)
    users = privileges.Users(application, dispatcher, migrator)
    try:
        found = privileges.grants(name, users, default if schema is None else parse_schema(schema))
    except privileges.UnusableUser as unusable:
        raise CommandFailed(str(unusable), Exit.USAGE) from None
    except ValueError as error:
        raise CommandFailed(f"--schema {error}", Exit.USAGE) from None
    if step != "after":
        _print("Before the first `dispatcher migrate`", found.before)
        if name == "postgresql":
            typer.echo("-- On PostgreSQL 13 and 14 also: REVOKE CREATE ON SCHEMA public FROM PUBLIC;")
    if step != "before":
        _print("After each `dispatcher migrate` that adds tables", found.after)


def _database(dialect: str | None) -> tuple[str, str | None]:
    """Returns the dialect to print, and the schema of the tables that the settings name, if they name a database at all."""
    if not is_named():
        if dialect is None:
            raise CommandFailed("name the database with --dialect, or set DISPATCHER_DATABASE_URL", Exit.USAGE)
        return dialect, None
    settings = load_settings()
    name = dialect_of(settings.database_url.get_secret_value()).name
    return dialect or name, settings.database_schema


def _print(when: str, statements: Iterable[str]) -> None:
    typer.echo(f"-- {when}:")
    for statement in statements:
        typer.echo(f"{statement};")
