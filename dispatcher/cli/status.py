"""`dispatcher status`: one screen, worst first."""

import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import Annotated, Any

import typer

from dispatcher.cli.database import checked
from dispatcher.cli.options import AsJson
from dispatcher.cli.output import age, print_facts, print_json, shown
from dispatcher.database.transactions import Database
from dispatcher.inspection.status import LastRequest, Recent, Status, concerns, read_status
from dispatcher.settings.settings import load_settings

app = typer.Typer()

CLEAR_SCREEN = "\033[H\033[J"


@app.command()
def status(
    watch: Annotated[bool, typer.Option("--watch", help="Repeat until Ctrl-C.")] = False,
    every: Annotated[float, typer.Option(min=0.1, metavar="SECONDS", help="With --watch: the interval.")] = 2.0,
    as_json: AsJson = False,
) -> None:
    """Show on one screen what is failing, waiting and being sent.

    Problems come first. It reads only the database, at a cost that does not grow with the backlog, and changes nothing. Rates and
    lag cover at most the last five minutes. A figure with a + is a lower bound.

    \b
    dispatcher status
    dispatcher status --watch
    dispatcher status --json | jq .backlog.due
    """
    import sys

    settings = load_settings()
    place = settings.database.place
    with checked(settings) as database:
        for reading in _readings(database, every if watch else None):
            if as_json:
                print_json({**_row(reading), "database": place})
                continue
            if watch and sys.stdout.isatty():
                typer.echo(CLEAR_SCREEN, nl=False)
            _show(reading, place)


def _readings(database: Database, every: float | None) -> Iterator[Status]:
    yield read_status(database)
    while every is not None:
        time.sleep(every)
        yield read_status(database)


def _show(reading: Status, place: str) -> None:
    worries = concerns(reading)
    for concern in worries:
        label = "PROBLEM" if concern.urgent else "warning"
        typer.echo(f"{label}  {shown(concern.what)}\n         dispatcher {concern.command}")
    typer.echo("" if worries else "ok       nothing to worry about\n", nl=bool(worries))
    backlog, recent = reading.backlog, reading.recent
    more = "" if backlog.complete else "+"
    print_facts(
        [
            ("database", place),
            ("at", f"{shown(reading.at)} UTC"),
            ("outbox", f"{backlog.outbox:,}{more} events not collected yet"),
            ("due", f"{backlog.due:,}{more} deliveries ready to send"),
            ("waiting", f"{backlog.waiting:,}{more} for a retry or a slot of the rate limit"),
            ("paused", f"{backlog.paused:,}{more} deliveries (installation paused)"),
            ("oldest event", age(backlog.oldest_event_age) if backlog.oldest_event_age else "none waiting"),
            ("leases", f"{reading.leases.held:,} held, {reading.leases.expired:,} expired"),
            ("last request", _last(reading.last_request)),
            ("requests", _rates(recent)),
            ("lag", _lag(recent)),
        ]
    )


def _last(last: LastRequest | None) -> str:
    if last is None:
        return "none known"
    return f"{age(last.age)} ago: {last.outcome}" + (f", {last.status}" if last.status is not None else "")


def _rates(recent: Recent) -> str:
    if not recent.requests:
        return f"none in the last {age(recent.seconds)}"
    outcomes = ", ".join(f"{count:,} {name}" for name, count in recent.outcomes.items())
    return f"{recent.requests * 60 / recent.seconds:,.1f} a minute in the last {age(recent.seconds)}: {outcomes}"


def _lag(recent: Recent) -> str | None:
    if recent.lag_median is None:
        return None
    return f"median {recent.lag_median:,.3f} s, 95 % within {recent.lag_p95:,.3f} s, at most {recent.lag_max:,.3f} s"


def _row(reading: Status) -> dict[str, Any]:
    backlog, recent = reading.backlog, reading.recent
    return {
        "at": reading.at,
        "concerns": [{"urgent": one.urgent, "what": one.what} for one in concerns(reading)],
        "backlog": {
            "outbox": backlog.outbox,
            "due": backlog.due,
            "waiting": backlog.waiting,
            "paused": backlog.paused,
            "complete": backlog.complete,
        },
        "oldest_event_age_seconds": backlog.oldest_event_age,
        "dead_letters": backlog.dead_letters,
        "paused_installations": backlog.paused_installations,
        "failing_installations": {one.installation_id: one.failures for one in reading.failing},
        "leases": {"held": reading.leases.held, "expired": reading.leases.expired},
        "last_request": None if (last := reading.last_request) is None else asdict(last),
        "recent": {
            "seconds": recent.seconds,
            "requests": recent.requests,
            "outcomes": recent.outcomes,
            "lag_seconds": {"median": recent.lag_median, "p95": recent.lag_p95, "max": recent.lag_max},
        },
    }
