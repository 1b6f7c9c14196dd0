"""`dispatcher check`: what is wrong with the setup, and how to fix it."""

import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from dispatcher.cli.exits import CommandFailed, Exit
from dispatcher.cli.options import AsJson
from dispatcher.cli.output import number, print_columns, print_json, shown
from dispatcher.outbox.events import INSTALLATION_ID, INSTALLATION_ID_LENGTH
from dispatcher.settings.settings import SettingLine, describe, load_settings

if TYPE_CHECKING:
    from dispatcher.inspection.checks import Finding

app = typer.Typer()


@app.command()
def check(
    installation: Annotated[
        str | None,
        typer.Option(metavar="icfg_…", help="Look up the token of this installation, instead of some known ones."),
    ] = None,
    live: Annotated[
        bool, typer.Option("--live", help="Also ask Vercel whether it accepts the tokens. Changes nothing.")
    ] = False,
    show_all: Annotated[bool, typer.Option("--all", help="Also list the settings that have their defaults.")] = False,
    as_json: AsJson = False,
) -> None:
    """Find problems with the setup, and show how to fix them.

    Checks the settings, the database, the recorded attempts, the credentials and Vercel's address, and changes nothing. Then lists
    the settings with their sources; secrets are hidden. Looks up tokens for real; connects to Vercel, but sends nothing without --live.

    Exit codes: 0 no problem (there may be warnings), 1 a problem, 2 a problem of the settings, 75 database unreachable.
    """
    from dispatcher.inspection.checks import Level, examine, worst_first

    if installation is not None and not INSTALLATION_ID.fullmatch(installation):
        what = f"--installation {installation!a} is not an installation id"
        raise CommandFailed(f"{what}: write 1 to {INSTALLATION_ID_LENGTH} of A-Z a-z 0-9 _ -", Exit.USAGE)
    settings = load_settings()
    if sys.stderr.isatty():
        typer.echo("checking the database, the credentials and Vercel's address …", err=True)
    findings = worst_first(examine(settings, installation, live=live))
    lines = [line for line in describe(settings) if show_all or line.source != "default"]
    counts = Counter(one.level for one in findings)
    if as_json:
        _print_rows(findings, lines)
        print_json({"kind": "summary", "problems": counts[Level.PROBLEM], "warnings": counts[Level.WARNING]})
    else:
        _print_text(findings, lines)
        typer.echo(f"{number(counts[Level.PROBLEM], 'problem')}, {number(counts[Level.WARNING], 'warning')}")
    raise typer.Exit(_exit(one.check for one in findings if one.level is Level.PROBLEM))


def _print_rows(findings: Iterable["Finding"], lines: Iterable[SettingLine]) -> None:
    for one in findings:
        print_json({"kind": "finding", "check": one.check, "level": one.level, "what": one.what})
    for line in lines:
        print_json({"kind": "setting", "name": line.name, "value": line.value, "source": line.source})


def _print_text(findings: Iterable["Finding"], lines: Sequence[SettingLine]) -> None:
    for one in findings:
        level = one.level.upper() if one.level == "problem" else one.level
        typer.echo(f"{level:<8} {one.check:<12} {shown(one.what)}")
    typer.echo()
    if lines:
        print_columns(
            ("SETTING", "VALUE", "FROM"), [(line.name, line.value or "(not set)", line.source) for line in lines]
        )
        typer.echo()


def _exit(problems: Iterable[str]) -> Exit:
    failed = set(problems)
    if "settings" in failed:
        return Exit.USAGE
    if "database" in failed:
        return Exit.UNREACHABLE
    return Exit.FAILED if failed else Exit.DONE
