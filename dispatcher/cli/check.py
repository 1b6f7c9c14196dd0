"""`dispatcher check`: what is wrong here, and how to mend it."""

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
        str | None, typer.Option(metavar="icfg_…", help="Try to find the token of this installation.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say what is wrong with the settings, the database, the credentials or Vercel's address, and how to mend it.

    It shows every setting with where it comes from, secrets hidden, and changes nothing. Tokens are looked up for real; to
    Vercel it connects, and sends nothing.

    Exit codes: 0 nothing is wrong (warnings aside), 1 something is, 2 the settings are, 75 the database cannot be reached.
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
    found = set(problems)
    if "settings" in found:
        return Exit.USAGE
    if "database" in found:
        return Exit.UNREACHABLE
    return Exit.FAILED if found else Exit.DONE
