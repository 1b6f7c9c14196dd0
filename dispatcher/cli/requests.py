"""`dispatcher requests`: the newest requests of all installations, and the next ones as they are made."""

import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated

import typer

from dispatcher.cli.database import checked
from dispatcher.cli.exits import CommandFailed, Exit
from dispatcher.cli.options import AsJson, Limit, OfInstallation, OfResource, Since, Until, parse_since
from dispatcher.cli.output import Columns, cut, number, print_columns, print_json, shown
from dispatcher.database.transactions import Database
from dispatcher.inspection.minutes import outcomes_by_minute
from dispatcher.inspection.request_groups import Groups, RequestGroup, group_requests
from dispatcher.inspection.requests import Found, RequestFilter, RequestTail, Scope, newest_requests
from dispatcher.policy.outcome import OutcomeKind
from dispatcher.settings.settings import load_settings
from dispatcher.store.attempt_log import Attempt

app = typer.Typer()

MAX_ERROR_LENGTH = 60
HEADER = (
    "at (UTC)",
    "installation",
    "resource",
    "attempt",
    "outcome",
    "status",
    "ms",
    "decision",
    "vercel id",
    "error",
)
GROUPS_HEADER = (
    "requests",
    "outcome",
    "status",
    "code",
    "installations",
    "first (UTC)",
    "newest (UTC)",
    "its installation",
    "its resource",
    "its error",
)
MINUTES_HEADER = ("minute (UTC)", "delivered", "failed", "throttled", "")


@app.command()
def requests(
    installation: OfInstallation = None,
    resource: OfResource = None,
    failed: Annotated[bool, typer.Option("--failed", help="Only those that Vercel did not accept.")] = False,
    outcome: Annotated[OutcomeKind | None, typer.Option("--outcome", help="Only those with this outcome.")] = None,
    status: Annotated[
        int | None, typer.Option("--status", min=100, max=599, metavar="N", help="Only those with this HTTP status.")
    ] = None,
    since: Since = None,
    until: Until = None,
    grouped: Annotated[
        bool, typer.Option("--grouped", help="Group the newest 5,000 by outcome, status and beginning of the error.")
    ] = False,
    by_minute: Annotated[
        bool, typer.Option("--by-minute", help="Count those of each of the last 60 minutes; without a filter.")
    ] = False,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Then show new ones until Ctrl-C.")] = False,
    every: Annotated[float, typer.Option(min=0.1, metavar="SECONDS", help="With --follow: the interval.")] = 1.0,
    limit: Limit = 20,
    as_json: AsJson = False,
) -> None:
    """Show the newest requests of all installations.

    The newest is last. They are kept for DISPATCHER_ATTEMPT_RETENTION. Without an installation or a resource, at most the newest
    100,000 within the given times are searched. Exit code 3 if there are none, unless --follow or --by-minute.

    \b
    dispatcher requests --failed
    dispatcher requests --follow
    dispatcher requests --grouped --failed --since 15m
    dispatcher requests --by-minute
    """
    if grouped + by_minute + follow > 1:
        raise CommandFailed("choose one of --grouped, --by-minute and --follow", Exit.USAGE)
    with checked(load_settings()) as database:
        times = parse_since(since, database.now), parse_since(until, database.now, "--until")
        wanted = RequestFilter(installation, resource, failed, outcome, status, *times)
        if by_minute:
            _show_minutes(database, wanted, as_json=as_json)
        elif grouped:
            _show_groups(group_requests(database, wanted), limit, as_json=as_json)
        elif follow:
            _follow(database, wanted, limit, every, as_json=as_json)
        else:
            _show(newest_requests(database, wanted, limit), limit, as_json=as_json)


def _show(found: Found, limit: int, *, as_json: bool) -> None:
    scope = found.scope
    is_partial = scope is not None and not scope.complete and len(found.requests) < limit
    if not found.requests:
        among = f" among {_describe(scope)}" if scope is not None and is_partial else ""
        raise CommandFailed(f"no such request is known{among}", Exit.NOTHING_MATCHED)
    _print(Columns(HEADER), found.requests, as_json=as_json)
    if scope is not None and is_partial:
        typer.echo(f"only {_describe(scope)} were searched: see --until, --installation and --resource", err=True)


def _follow(database: Database, wanted: RequestFilter, limit: int, every: float, *, as_json: bool) -> None:
    tail, columns = RequestTail(database, wanted), Columns(HEADER)
    _print(columns, tail.begin(limit), as_json=as_json)
    while True:
        time.sleep(every)
        _print(columns, tail.read(), as_json=as_json)


def _print(columns: Columns, requests: Sequence[Attempt], *, as_json: bool) -> None:
    if as_json:
        for one in requests:
            print_json(asdict(one))
    elif requests:
        columns.print(map(_row, requests))


def _show_groups(found: Groups, limit: int, *, as_json: bool) -> None:
    if not found.groups:
        raise CommandFailed("no such request is known", Exit.NOTHING_MATCHED)
    if as_json:
        for group in found.groups[:limit]:
            print_json({"kind": "group", **asdict(group)})
        print_json({"kind": "scope", **asdict(found.scope), "groups": len(found.groups)})
        return
    typer.echo(f"of {_describe(found.scope)}:\n")
    print_columns(GROUPS_HEADER, map(_group_row, found.groups[:limit]))
    if len(found.groups) > limit:
        typer.echo(f"the first {limit:,} of {number(len(found.groups), 'group')} are listed: --limit", err=True)


def _show_minutes(database: Database, wanted: RequestFilter, *, as_json: bool) -> None:
    if wanted != RequestFilter():
        raise CommandFailed("--by-minute goes without a filter", Exit.USAGE)
    minutes = outcomes_by_minute(database)
    if as_json:
        for minute in minutes:
            print_json(asdict(minute))
        return
    rows = ((one.at, one.delivered, one.failed, one.throttled, "or more" if one.capped else "") for one in minutes)
    print_columns(MINUTES_HEADER, rows)


def _describe(scope: Scope) -> str:
    newest = f"{number(scope.requests, 'request')}, {shown(scope.first)} to {shown(scope.last)} UTC"
    return f"the newest {newest}"


def _group_row(one: RequestGroup) -> tuple[object, ...]:
    error = cut(one.newest.error or "", MAX_ERROR_LENGTH)
    ids = (one.newest.installation_id, one.newest.resource_id)
    return (
        one.requests,
        one.outcome,
        one.status,
        one.error_code,
        one.installations,
        one.first_at,
        one.newest.at,
        *ids,
        error,
    )


def _row(one: Attempt) -> tuple[object, ...]:
    return (
        one.at,
        one.installation_id,
        one.resource_id,
        one.attempt,
        one.outcome,
        one.status,
        one.duration_ms,
        one.decision,
        one.vercel_id,
        cut(one.error or "", MAX_ERROR_LENGTH),
    )
