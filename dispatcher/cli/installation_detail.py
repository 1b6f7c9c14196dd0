"""`dispatcher installations show`: one installation in detail."""

from dataclasses import asdict
from typing import Annotated

import typer

from dispatcher.cli.database import checked
from dispatcher.cli.exits import CommandFailed, Exit
from dispatcher.cli.installation_list import json_of
from dispatcher.cli.options import AsJson, Limit
from dispatcher.cli.output import number, print_columns, print_facts, print_json, shown
from dispatcher.inspection.deliveries import WaitingDelivery
from dispatcher.inspection.graces import Graces
from dispatcher.inspection.installation_detail import (
    MAX_COUNTED_DELIVERIES,
    InstallationDetail,
    RateUse,
    find_installation,
)
from dispatcher.inspection.installations import Installation
from dispatcher.settings.durations import age
from dispatcher.settings.settings import load_settings

app = typer.Typer()

ID = typer.Argument(metavar="ID", help="The installation's id, icfg_…", show_default=False)
InstallationId = Annotated[str, ID]
DELIVERIES_HEADER = ("resource", "events", "attempts", "status", "due (UTC)", "next (UTC)", "what")


@app.command("show")
def show_(installation_id: InstallationId, limit: Limit = 10, as_json: AsJson = False) -> None:
    """Show what decides when an installation's deliveries are sent.

    Its pause, failures, lease and rate limit, and the first of its deliveries with what happens to them next. For its history see
    `dispatcher explain`. Exit code 3 if nothing has been collected for it.

    \b
    dispatcher installations show icfg_1
    """
    settings = load_settings()
    with checked(settings) as database:
        found = find_installation(database, installation_id, Graces.of(settings), settings.rate_limit, limit)
    if found is None:
        raise unknown(installation_id)
    if as_json:
        print_json({**asdict(found), "installation": json_of(found.installation)})
        return
    print_facts(_facts(found))
    if found.deliveries:
        typer.echo("")
        print_columns(DELIVERIES_HEADER, map(_delivery_row, found.deliveries))
    if found.waiting > len(found.deliveries):
        typer.echo(
            f"the first {number(len(found.deliveries), 'delivery')} of {found.waiting:,} are listed: --limit", err=True
        )


def _facts(found: InstallationDetail) -> list[tuple[str, object]]:
    one = found.installation
    return [
        ("installation", one.installation_id),
        ("state", one.state),
        ("paused", _pause(one)),
        ("begins to die", _death(one)),
        ("failures", f"{one.failures:,} in a row"),
        ("breaker", f"{'open' if found.is_breaker_open else 'closed'}, {number(found.faults, 'fault')} in a row"),
        ("lease", _lease(one)),
        ("throttled", _throttle(found)),
        ("rate", None if found.rate is None else _rate(found.rate)),
        ("waiting", _waiting(found)),
        ("delivered", "never" if one.last_delivered_at is None else f"{shown(one.last_delivered_at)} UTC"),
    ]


def _pause(one: Installation) -> str | None:
    if one.pause_reason is None:
        return None
    by = f", by {one.paused_by}" if one.paused_by else ""
    note = f": {one.pause_note}" if one.pause_note else ""
    return f"{one.pause_reason} since {shown(one.paused_since)} UTC{by}{note}"


def _death(one: Installation) -> str | None:
    if one.pause_reason is None:
        return None
    if one.dies_at is None:
        return "never: an operator paused it"
    left = (one.dies_at - one.now).total_seconds()
    return f"{shown(one.dies_at)} UTC, " + (f"in {age(left)}" if left > 0 else f"since {age(-left)}")


def _lease(one: Installation) -> str:
    if one.leased_until is None:
        return "none"
    state = "until" if one.leased_until > one.now else "expired at"
    return f"of {one.leased_by}, {state} {shown(one.leased_until)} UTC"


def _throttle(found: InstallationDetail) -> str | None:
    until = found.installation.throttled_until
    if until is None or until <= found.installation.now:
        return None
    return f"until {shown(until)} UTC" + (f": {found.throttled_by}" if found.throttled_by else "")


def _rate(rate: RateUse) -> str:
    next_ = "now" if not rate.next_in else f"in {age(rate.next_in)}"
    return f"{rate.used:,} of {rate.limit:,} used in {age(rate.window)}, the next request {next_}"


def _waiting(found: InstallationDetail) -> str:
    least = "+" if found.waiting >= MAX_COUNTED_DELIVERIES else ""
    time = f": at least {age(found.rate.backlog)} at the rate limit" if found.rate is not None and found.waiting else ""
    return f"{number(found.waiting, 'delivery', least)}{time}"


def _delivery_row(one: WaitingDelivery) -> tuple[object, ...]:
    return (one.resource_id, one.events, one.attempts, one.last_status, one.due_at, one.next_at, one.next)


def unknown(installation_id: str) -> CommandFailed:
    """Returns the error for an installation that is not known."""
    return CommandFailed(f"nothing is known about an installation {shown(installation_id)}", Exit.NOTHING_MATCHED)
