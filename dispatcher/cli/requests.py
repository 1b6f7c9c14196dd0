"""`dispatcher requests`: the newest requests of all installations, and the next ones as they are made."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Annotated

import typer

from dispatcher.cli.database import checked
from dispatcher.cli.exits import CommandFailed, Exit
from dispatcher.cli.options import AsJson, Limit, OfInstallation, OfResource
from dispatcher.cli.output import Columns, cut, print_json
from dispatcher.database.transactions import Database
from dispatcher.inspection.requests import RequestFilter, RequestTail, newest_requests
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


@app.command()
def requests(
    installation: OfInstallation = None,
    resource: OfResource = None,
    failed: Annotated[bool, typer.Option("--failed", help="Only those that Vercel did not accept.")] = False,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Then show new ones until Ctrl-C.")] = False,
    every: Annotated[float, typer.Option(min=0.1, metavar="SECONDS", help="With --follow: the interval.")] = 1.0,
    limit: Limit = 20,
    as_json: AsJson = False,
) -> None:
    """Show the newest requests of all installations.

    The newest is last. They are kept for DISPATCHER_ATTEMPT_RETENTION. Exit code 3 if there are none, unless --follow.

    \b
    dispatcher requests --failed
    dispatcher requests --follow
    """
    wanted = RequestFilter(installation, resource, failed)
    columns = Columns(HEADER)
    with checked(load_settings()) as database:
        for found in _readings(database, wanted, limit, every if follow else None):
            if not found and not follow:
                raise CommandFailed("no such request is known", Exit.NOTHING_MATCHED)
            if as_json:
                for one in found:
                    print_json(asdict(one))
            elif found:
                columns.print(map(_row, found))


def _readings(
    database: Database, wanted: RequestFilter, limit: int, every: float | None
) -> Iterator[Sequence[Attempt]]:
    if every is None:
        yield newest_requests(database, wanted, limit)
        return
    tail = RequestTail(database, wanted)
    yield tail.begin(limit)
    while True:
        time.sleep(every)
        yield tail.read()


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
