"""`dispatcher demo`: the whole journey of some events in one terminal."""

import asyncio
import json
import secrets
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dispatcher.cli.exits import Exit
from dispatcher.cli.signature import sign
from dispatcher.settings.settings import Settings

if TYPE_CHECKING:
    from dispatcher.sandbox.demo import ServeConsole
    from dispatcher.sandbox.demo_account import Account

app = typer.Typer()


@app.command()
def demo(
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    with_console: Annotated[
        bool, typer.Option("--console", help="Serve the console too, with actions, and go on until Ctrl-C.")
    ] = False,
) -> None:
    """Show events from commit to delivery, in this terminal.

    A partner's application commits changes, the dispatcher delivers them, and a stand-in for Vercel fails now and then. It needs
    nothing but this machine, takes some seconds, and keeps its SQLite database so that you can inspect it. With --console it prints a
    link to web pages of it, goes on, and leaves nothing behind.

    Exit code 1 if a change was lost.
    """
    from dispatcher.sandbox.demo import run_demo
    from dispatcher.sandbox.demo_account import print_account

    def tell(account: "Account") -> None:
        if as_json:
            typer.echo(json.dumps(asdict(account)))
        else:
            print_account(account, command_line(sys.argv[0]), typer.echo, is_kept=not with_console)

    serve_console = _prepare_console() if with_console else None
    account = asyncio.run(run_demo(lambda line: typer.echo(line, err=True), tell, serve_console))
    raise typer.Exit(Exit.FAILED if account.broken else Exit.DONE)


def _prepare_console() -> "ServeConsole":
    """Returns the console for the demo, which logs in with a token of its own. Loads its packages, before the demo begins."""
    from dispatcher.console.access import TokenAccess
    from dispatcher.console.server import serving_console

    @asynccontextmanager
    async def serve(settings: Settings) -> AsyncIterator[str]:
        token = secrets.token_urlsafe(32)
        access = TokenAccess(token, is_secure=False, may_write=True)
        async with serving_console(settings, access, sign(None, None).by or "", may_write=True) as url:
            yield f"{url}/login?token={token}"

    return serve


def command_line(program: str) -> str:
    """Returns the command to type to call this program, whose `sys.argv[0]` is `program`."""
    return "python -m dispatcher" if Path(program).name == "__main__.py" else program
