"""`dispatcher demo`: the whole journey of some events in one terminal."""

import asyncio
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from dispatcher.cli.exits import Exit

app = typer.Typer()


@app.command()
def demo(as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False) -> None:
    """Show events from commit to delivery, in this terminal.

    A partner's application commits changes, the dispatcher delivers them, and a stand-in for Vercel fails now and then. It needs
    nothing but this machine, takes some seconds, and keeps its SQLite database so that you can inspect it.

    Exit code 1 if a change was lost.
    """
    from dispatcher.sandbox.demo import run_demo
    from dispatcher.sandbox.demo_account import print_account

    account = asyncio.run(run_demo(lambda line: typer.echo(line, err=True)))
    if as_json:
        typer.echo(json.dumps(asdict(account)))
    else:
        print_account(account, command_line(sys.argv[0]), typer.echo)
    raise typer.Exit(Exit.FAILED if account.broken else Exit.DONE)


def command_line(program: str) -> str:
    """Returns the command to type to call this program, whose `sys.argv[0]` is `program`."""
    return "python -m dispatcher" if Path(program).name == "__main__.py" else program
