"""`dispatcher status`: one screen, worst first."""

import shlex
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Annotated, Any

import typer

from dispatcher.cli.database import checked
from dispatcher.cli.exits import CommandFailed, Exit
from dispatcher.cli.options import AsJson
from dispatcher.cli.output import number, print_facts, print_json, shown
from dispatcher.database.transactions import Database
from dispatcher.inspection.backlog import Backlog
from dispatcher.inspection.concerns import concerns
from dispatcher.inspection.status import LastRequest, Leases, Recent, Status, read_status
from dispatcher.settings.durations import age
from dispatcher.settings.settings import load_settings

app = typer.Typer()

MAX_SHOWN_HOLDERS = 5
CLEAR_SCREEN = "\033[H\033[J"


@app.command()
def status(
    watch: Annotated[bool, typer.Option("--watch", help="Repeat until Ctrl-C.")] = False,
    every: Annotated[float, typer.Option(min=0.1, metavar="SECONDS", help="With --watch: the interval.")] = 2.0,
    exit_code: Annotated[
        bool, typer.Option("--exit-code", help="Exit with 4 if there is a problem, instead of 0; not with --watch.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show on one screen what is failing, waiting and being sent.

    Problems come first. It reads only the database, at a cost that does not grow with the backlog, and changes nothing. Rates and
    lag cover at most the last five minutes. A figure with a + is a lower bound.

    \b
    dispatcher status
    dispatcher status --watch
    dispatcher status --json | jq .backlog.due
    dispatcher status --exit-code > /dev/null || echo "look at the dispatcher"
    """
    import sys

    if watch and exit_code:
        raise CommandFailed("--exit-code goes without --watch, which ends only with Ctrl-C", Exit.USAGE)
    settings = load_settings()
    place = settings.database.place
    with checked(settings) as database:
        for reading in _readings(database, every if watch else None, logs_successes=settings.logs_successes):
            if as_json:
                print_json({**_row(reading), "database": place})
                continue
            if watch and sys.stdout.isatty():
                typer.echo(CLEAR_SCREEN, nl=False)
            _show(reading, place)
    if exit_code and any(concern.urgent for concern in concerns(reading)):
        raise typer.Exit(Exit.UNHEALTHY)


def _readings(database: Database, every: float | None, *, logs_successes: bool) -> Iterator[Status]:
    yield read_status(database, logs_successes=logs_successes)
    while every is not None:
        time.sleep(every)
        yield read_status(database, logs_successes=logs_successes)


def _show(reading: Status, place: str) -> None:
    worries = concerns(reading)
    for concern in worries:
        label = "PROBLEM" if concern.urgent else "warning"
        typer.echo(f"{label}  {shown(concern.what)}\n         dispatcher {shown(shlex.join(concern.command))}")
    typer.echo("" if worries else "ok       nothing to worry about\n", nl=bool(worries))
    backlog, recent = reading.backlog, reading.recent
    least = "" if backlog.complete else "+"
    print_facts(
        [
            ("database", place),
            ("at", f"{shown(reading.at)} UTC"),
            ("outbox", f"{number(backlog.outbox, 'event', least)} not collected yet"),
            ("due", f"{number(backlog.due, 'delivery', least)} ready to send"),
            ("waiting", f"{number(backlog.waiting, 'delivery', least)} for a retry or a slot of the rate limit"),
            ("paused", f"{number(backlog.paused, 'delivery', least)} of paused installations"),
            ("oldest event", _oldest(backlog)),
            ("dead letters", _dead_letters(backlog)),
            ("dispatchers", _dispatchers(reading)),
            ("leases", _leases(reading.leases)),
            ("last request", _last(reading.last_request)),
            ("requests" if reading.logs_successes else "failures", _rates(recent)),
            ("lag", _lag(recent)),
        ]
    )


def _dispatchers(reading: Status) -> str:
    if reading.dispatchers is None:
        return "not known: run `dispatcher migrate`"
    versions = ", ".join(sorted({one.version for one in reading.running}))
    silent = [
        f"{one.name} was last seen {age((reading.at - one.seen_at).total_seconds())} ago"
        for one in reading.dispatchers
        if not one.is_running
    ]
    return "; ".join([f"{len(reading.running)} running ({versions})" if versions else "none running", *silent])


def _leases(leases: Leases) -> str:
    held = _by_holder((one.name, one.held) for one in leases.holders)
    expired = _by_holder((one.name, one.expired) for one in leases.holders)
    return f"{leases.held:,} held{held}, {leases.expired:,} expired{expired}"


def _by_holder(numbers: Iterable[tuple[str | None, int]]) -> str:
    named = [f"{number:,} {name or 'unknown'}" for name, number in numbers if number]
    shown_ones = [*named[:MAX_SHOWN_HOLDERS], *(["…"] if len(named) > MAX_SHOWN_HOLDERS else [])]
    return f" ({', '.join(shown_ones)})" if named else ""


def _oldest(backlog: Backlog) -> str:
    event = backlog.oldest_event
    if event is None:
        return "none waiting"
    about = " of ".join(filter(None, (event.resource_id, event.installation_id)))
    return f"{age(backlog.oldest_event_age)}: event {event.id}" + (f", {about}" if about else "")


def _dead_letters(backlog: Backlog) -> str | None:
    counts, least = backlog.dead_letters, "" if backlog.dead_letters_complete else "+"
    if not counts:
        return None
    return f"{sum(counts.values()):,}{least} unresolved: " + ", ".join(f"{n:,} {name}" for name, n in counts.items())


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
    if recent.lag_median is None or recent.lag_p95 is None or recent.lag_max is None:
        return None
    return f"median {age(recent.lag_median)}, p95 {age(recent.lag_p95)}, max {age(recent.lag_max)}"


def _row(reading: Status) -> dict[str, Any]:
    backlog, recent = reading.backlog, reading.recent
    return {
        "at": reading.at,
        "concerns": [
            {"urgent": one.urgent, "what": one.what, "command": ["dispatcher", *one.command]}
            for one in concerns(reading)
        ],
        "backlog": {
            "outbox": backlog.outbox,
            "due": backlog.due,
            "waiting": backlog.waiting,
            "paused": backlog.paused,
            "complete": backlog.complete,
        },
        "oldest_event_age_seconds": backlog.oldest_event_age,
        "oldest_event": None if backlog.oldest_event is None else asdict(backlog.oldest_event),
        "dead_letters": backlog.dead_letters,
        "paused_installations": backlog.paused_installations,
        "installations": backlog.installations,
        "failing_installations": {one.installation_id: one.failures for one in reading.failing},
        "dispatchers": None if reading.dispatchers is None else [asdict(one) for one in reading.dispatchers],
        "leases": asdict(reading.leases),
        "last_request": None if (last := reading.last_request) is None else asdict(last),
        "recent": {
            "seconds": recent.seconds,
            "requests": recent.requests,
            "outcomes": recent.outcomes,
            "lag_seconds": {"median": recent.lag_median, "p95": recent.lag_p95, "max": recent.lag_max},
        },
    }
