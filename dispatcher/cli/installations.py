"""`dispatcher installations`: their states, and what an operator can do about an installation as a whole."""

from dataclasses import asdict
from typing import Annotated

import typer

from dispatcher.cli.confirmation import confirm, progress
from dispatcher.cli.database import checked
from dispatcher.cli.exits import CommandFailed, Exit
from dispatcher.cli.options import AsJson, DryRun, Limit, Yes
from dispatcher.cli.output import number, print_columns, print_json, shown
from dispatcher.inspection.installations import (
    Installation,
    count_waiting,
    list_installations,
)
from dispatcher.settings.settings import load_settings
from dispatcher.store.installations import FOREVER, pause, purge, resume

app = typer.Typer(name="installations", no_args_is_help=True, help="List, pause, resume and purge installations.")

InstallationId = Annotated[str, typer.Argument(metavar="ID", help="The installation's id, icfg_…", show_default=False)]


@app.command("list")
def list_(
    paused: Annotated[bool, typer.Option("--paused", help="List paused ones only.")] = False,
    limit: Limit = 100,
    as_json: AsJson = False,
) -> None:
    """List installations, trouble first, with their pending work.

    Those without a valid token come first, then failing ones, other pauses, and the rest by the time they are due. The column "next" is
    when the dispatcher looks at an installation again. Exit code 3 if there are none.
    """
    with checked(load_settings()) as database:
        installations = list_installations(database, limit, paused=paused)
    if as_json:
        for one in installations:
            print_json(_json(one))
    elif installations:
        header = (
            "installation",
            "state",
            "deliveries",
            "failures",
            "reason",
            "since (UTC)",
            "next (UTC)",
            "delivered (UTC)",
        )
        print_columns(header, map(_row, installations))
    if not installations:
        raise CommandFailed(
            "there is no paused installation" if paused else "no installation is known yet", Exit.NOTHING_MATCHED
        )
    if len(installations) == limit:
        typer.echo(f"the first {limit:,} are listed, there may be more: --limit", err=True)


def _row(one: Installation) -> tuple[object, ...]:
    next_ = "when resumed" if one.paused_until == FOREVER else one.due_at
    return (
        one.installation_id,
        one.state,
        one.deliveries,
        one.failures,
        one.pause_reason,
        one.paused_since,
        next_,
        one.last_delivered_at,
    )


def _json(one: Installation) -> dict[str, object]:
    """The table's columns. An operator's pause has no end, so its end is null."""
    endless = {name: None for name in ("paused_until", "due_at") if getattr(one, name) == FOREVER}
    return {"state": one.state, **asdict(one), **endless}


@app.command("pause")
def pause_(installation_id: InstallationId) -> None:
    """Send nothing for an installation until it is resumed.

    Its events are kept. Requests in flight are not interrupted. Exit code 3 if the installation is unknown.
    """
    with checked(load_settings()) as database:
        known = pause(database, installation_id)
    if not known:
        raise _unknown(installation_id)
    typer.echo(f"{shown(installation_id)} is paused until `dispatcher installations resume {shown(installation_id)}`")


@app.command("resume")
def resume_(installation_id: InstallationId) -> None:
    """End the pause of an installation, whatever its reason.

    Its waiting deliveries are sent at once, within the rate limit. Exit code 3 if the installation is unknown.
    """
    with checked(load_settings()) as database:
        known = resume(database, installation_id)
    if not known:
        raise _unknown(installation_id)
    typer.echo(f"{shown(installation_id)} is not paused: its waiting deliveries are sent within the rate limit")


@app.command("purge")
def purge_(installation_id: InstallationId, dry_run: DryRun = False, yes: Yes = False, as_json: AsJson = False) -> None:
    """Give up all events and deliveries of an uninstalled installation.

    Its deliveries and its events in the outbox become dead letters with the reason "purged". To undo this:
    `dispatcher dead-letters replay --installation ID --reason purged`. Exit code 3 if the installation is unknown.

    \b
    dispatcher installations purge icfg_1 --dry-run
    dispatcher installations purge icfg_1 --yes
    """
    with checked(load_settings()) as database:
        waiting = count_waiting(database, installation_id)
        if waiting is None:
            raise _unknown(installation_id)
        account = {"installation_id": installation_id, **asdict(waiting), "dead_letters": 0}
        what = f"{number(waiting.deliveries, 'delivery')} and {number(waiting.events, 'event')} of {shown(installation_id)}"
        if not dry_run:
            confirm(f"Purge {what}?", yes=yes)
            account["dead_letters"] = purge(database, installation_id, progress(waiting.deliveries))
    if as_json:
        print_json(account)
    elif dry_run:
        typer.echo(f"{what} wait; nothing was changed")
    else:
        typer.echo(f"{number(int(account['dead_letters']), 'dead letter')} (purged) of {shown(installation_id)}")


def _unknown(installation_id: str) -> CommandFailed:
    return CommandFailed(f"nothing is known about an installation {shown(installation_id)}", Exit.NOTHING_MATCHED)
