"""`dispatcher demo`: the whole journey in one terminal."""

import asyncio
import json
import sys
from dataclasses import asdict
from typing import Annotated

import typer

from dispatcher.cli.exits import Exit

app = typer.Typer()


@app.command()
def demo(as_json: Annotated[bool, typer.Option("--json", help="Print the account as JSON.")] = False) -> None:
    """A partner's application, the dispatcher and a stand-in for Vercel with bad days. Exit code 1 if a change was lost."""
    from dispatcher.sandbox.demo import run_demo
    from dispatcher.sandbox.demo_account import print_account

    account = asyncio.run(run_demo(lambda line: typer.echo(line, err=True)))
    if as_json:
        typer.echo(json.dumps(asdict(account)))
    else:
        print_account(account, sys.argv[0], typer.echo)
    raise typer.Exit(Exit.FAILED if account.broken else Exit.DONE)
