"""`dispatcher demo`: the whole journey in one terminal."""

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
def demo(as_json: Annotated[bool, typer.Option("--json", help="Print the account as JSON.")] = False) -> None:
    """A partner's application, the dispatcher and a stand-in for Vercel with bad days. Exit code 1 if a change was lost."""
    from dispatcher.sandbox.demo import run_demo, tell

    account = asyncio.run(run_demo(lambda line: typer.echo(line, err=True)))
    if as_json:
        typer.echo(json.dumps(asdict(account)))
    else:
        tell(account, command_line(sys.argv[0]), typer.echo)
    raise typer.Exit(Exit.FAILED if account.broken else Exit.DONE)


def command_line(program: str) -> str:
    """Returns the command to type to call this program, whose `sys.argv[0]` is `program`."""
    return "python -m dispatcher" if Path(program).name == "__main__.py" else program
