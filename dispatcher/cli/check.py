"""`dispatcher check`: what is wrong with the setup, and how to fix it."""

from collections.abc import Iterable
from typing import Annotated

import typer

from dispatcher.cli.exits import Exit
from dispatcher.cli.options import AsJson
from dispatcher.cli.output import print_columns, print_json, shown
from dispatcher.settings.settings import describe, load_settings

app = typer.Typer()


@app.command()
def check(
    installation: Annotated[
        str | None, typer.Option(metavar="icfg_…", help="Also look up the token of this installation.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Find problems with the setup, and show how to fix them.

    Checks the settings, the database, the credentials and Vercel's address, and changes nothing. Prints every setting with its
    source; secrets are hidden. Looks up tokens for real; connects to Vercel, but sends nothing.

    Exit codes: 0 no problem (there may be warnings), 1 a problem, 2 a problem of the settings, 75 database unreachable.
    """
    from dispatcher.inspection.checks import Level, examine

    settings = load_settings()
    if as_json:
        for line in describe(settings):
            print_json({"kind": "setting", "name": line.name, "value": line.value, "source": line.source})
    else:
        print_columns(
            ("SETTING", "VALUE", "FROM"),
            [(line.name, line.value or "(not set)", line.source) for line in describe(settings)],
        )
        typer.echo()
    problems = set()
    for one in examine(settings, installation):
        if as_json:
            print_json({"kind": "finding", "check": one.check, "level": one.level, "what": one.what})
        else:
            typer.echo(
                f"{one.level.upper() if one.level is Level.PROBLEM else one.level:<8} {one.check:<12} {shown(one.what)}"
            )
        if one.level is Level.PROBLEM:
            problems.add(one.check)
    raise typer.Exit(_exit(problems))


def _exit(problems: Iterable[str]) -> Exit:
    failed = set(problems)
    if "settings" in failed:
        return Exit.USAGE
    if "database" in failed:
        return Exit.UNREACHABLE
    return Exit.FAILED if failed else Exit.DONE
