"""The commands. Results go to stdout; an error goes to stderr, in one line."""

import os
import sys
from collections.abc import Sequence
from typing import Annotated, cast

import typer
from sqlalchemy.exc import DBAPIError

from dispatcher.cli import (
    check,
    console,
    dead_letters,
    deliveries,
    demo,
    explain,
    grants,
    installations,
    publish,
    requests,
    sandbox,
    schema,
    service,
    status,
    trigger,
)
from dispatcher.cli.exits import CommandFailed, Exit
from dispatcher.cli.output import shown
from dispatcher.database.engine import UnusableDatabaseUrl
from dispatcher.database.errors import first_line, is_unreachable
from dispatcher.database.schema import UnusableSchema
from dispatcher.database.transactions import UnusableIsolation
from dispatcher.settings.settings import SettingsError
from dispatcher.transport import UnusableNetwork

# The module of Typer's usage errors differs from version to version.
UsageError = cast("type[Exception]", typer.BadParameter.__base__)
INTERRUPTED = 130

app = typer.Typer(
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,  # plain text: help is also read in logs and containers
    pretty_exceptions_enable=False,
)
# In the order in which `dispatcher --help` lists them.
COMMANDS = (
    demo,
    sandbox,
    service,
    schema,
    grants,
    trigger,
    publish,
    check,
    status,
    console,
    explain,
    requests,
    deliveries,
    dead_letters,
    installations,
)
for commands in COMMANDS:
    app.add_typer(commands.app)


def _print_version(is_asked: bool) -> None:
    if is_asked:
        from dispatcher import __version__  # importing it looks it up

        typer.echo(f"vercel-outbox-dispatcher {__version__}")
        raise typer.Exit


@app.callback()
def dispatcher(
    _version: Annotated[
        bool,
        typer.Option("--version", "-V", callback=_print_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    """Delivers Vercel Marketplace events from a transactional outbox.

    Settings come from the environment (DISPATCHER_…). Results go to stdout, everything else to stderr.

    Exit codes: 0 done, 1 failed, 2 usage or settings, 3 nothing matched, 4 unhealthy, 5 something is left waiting (if asked),
    75 database unreachable.
    """


def main() -> None:
    """Entry point. Every expected error becomes one line and an exit code."""
    try:
        _refuse_undecodable(sys.argv)
        sys.exit(app(standalone_mode=False))
    except UsageError as error:
        _refuse_usage(error)
    except CommandFailed as error:
        _fail(str(error), error.code)
    except (SettingsError, UnusableDatabaseUrl, UnusableNetwork) as error:
        _fail(str(error), Exit.USAGE)
    except (UnusableSchema, UnusableIsolation) as error:
        _fail(str(error), Exit.FAILED)
    except DBAPIError as error:
        _refuse_database(error)
    except BrokenPipeError:  # the reader, such as `head`, has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(Exit.FAILED)
    except (KeyboardInterrupt, typer.Abort):
        sys.exit(INTERRUPTED)


def _refuse_undecodable(arguments: Sequence[str]) -> None:
    """Neither the database nor stdout could take such an argument."""
    for argument in arguments:
        try:
            argument.encode()
        except UnicodeEncodeError:
            _fail(f"an argument is not valid UTF-8: {argument!a}", Exit.USAGE)


def _refuse_usage(error: Exception) -> None:
    message = str(getattr(error, "message", error))
    context = getattr(error, "ctx", None)
    if "\n" in message:  # a command without its subcommand: this is its help
        typer.echo(message, err=True)
        sys.exit(Exit.USAGE)
    where = context.command_path if context is not None else "dispatcher"
    why = getattr(error, "format_message", lambda: message)().replace("Value error, ", "")
    _fail(f"{why}{'' if why.endswith(('.', '?')) else '.'} See `{where} --help`.", Exit.USAGE)


def _refuse_database(error: DBAPIError) -> None:
    reason = first_line(error)
    if is_unreachable(error):
        _fail(
            f"the database cannot be reached ({reason}): is it running, and does DISPATCHER_DATABASE_URL name it?",
            Exit.UNREACHABLE,
        )
    _fail(f"the database reported an error ({reason}): run `dispatcher check` to find the cause", Exit.FAILED)


def _fail(why: str, code: Exit) -> None:
    typer.echo(f"dispatcher: {shown(why)}", err=True)
    sys.exit(code)
