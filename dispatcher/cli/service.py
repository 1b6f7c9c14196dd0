"""`dispatcher run`, `drain` and `health`: start the service, deliver once, check the service's health."""

import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from dispatcher.cli.exits import CommandFailed, Exit
from dispatcher.cli.output import number
from dispatcher.service import WORKER_PROCESS_OPTION
from dispatcher.service.process_limits import prepare_process
from dispatcher.settings.settings import Settings, load_settings
from dispatcher.telemetry import configure_logging

if TYPE_CHECKING:
    from dispatcher.service.drain import Tally

HEALTH_TIMEOUT_SECONDS = 5

app = typer.Typer()


@app.command()
def run(
    worker_process: Annotated[int | None, typer.Option(WORKER_PROCESS_OPTION, hidden=True)] = None,
) -> None:
    """Deliver events until SIGTERM or Ctrl-C.

    Then it finishes its requests in flight within DISPATCHER_SHUTDOWN_GRACE, and exits. A second signal ends it at once.
    """
    from dispatcher.service.http_server import PortUnavailable

    prepare_process()
    settings = load_settings()
    configure_logging(settings.log_format, settings.log_level)
    try:
        if settings.processes > 1 and worker_process is None:
            _run_processes(settings)
        else:
            _run(settings, worker_process)
    except PortUnavailable as error:
        raise CommandFailed(str(error)) from None


def _run(settings: Settings, parent: int | None) -> None:
    from dispatcher.service import service
    from dispatcher.service.event_loop import run_in_loop

    run_in_loop(service.run(settings, parent=parent))


def _run_processes(settings: Settings) -> None:
    import asyncio

    from dispatcher.service.processes import run_processes

    if code := asyncio.run(run_processes(settings)):
        raise typer.Exit(code)


@app.command("drain")
def drain_(
    max_seconds: Annotated[float | None, typer.Option(min=0, help="Stop after this many seconds.")] = None,
    max_events: Annotated[int | None, typer.Option(min=1, help="Stop after about this many deliveries.")] = None,
    fail_if_waiting: Annotated[
        bool, typer.Option("--fail-if-waiting", help="Exit with 5, instead of 0, if anything is left.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Deliver what is due, then exit: for scheduled jobs.

    What waits for a retry, a slot of the rate limit or the end of a pause is left to a later drain; --fail-if-waiting makes that exit
    code 5.
    """
    from dispatcher.service.drain import drain
    from dispatcher.service.event_loop import run_in_loop

    prepare_process()
    settings = load_settings()
    configure_logging(settings.log_format, settings.log_level)
    drained = run_in_loop(drain(settings, max_seconds=max_seconds, max_events=max_events, progress=_show_progress))
    if sys.stderr.isatty():
        typer.echo(err=True)
    if as_json:
        typer.echo(json.dumps(asdict(drained)))
    else:
        typer.echo(
            f"{number(drained.events, 'event')} collected, {number(drained.requests, 'request')}, {drained.delivered:,} delivered, "
            f"{number(drained.dead_lettered, 'dead letter')}, {drained.waiting:,} left waiting"
        )
    if drained.waiting and fail_if_waiting:
        raise typer.Exit(Exit.LEFT_WAITING)


def _show_progress(tally: "Tally") -> None:
    """Shows on a terminal what has been done so far; into a log it writes nothing."""
    if sys.stderr.isatty():
        text = f"{tally.events:,} events collected, {tally.delivered:,} delivered, {tally.dead_lettered:,} dead letters"
        typer.echo(f"\r{text}", err=True, nl=False)


@app.command()
def health() -> None:
    """Check whether the running service is alive.

    For the HEALTHCHECK of a container. Exit code 4 if the service is not alive, or does not answer.
    """
    from http.client import HTTPConnection, HTTPException

    settings = load_settings()
    if settings.ops_port is None:
        raise CommandFailed(
            "DISPATCHER_OPS_PORT is off, so the service's health cannot be checked: set a port, or remove the health check",
            Exit.USAGE,
        )
    host = "127.0.0.1" if settings.ops_host in {"0.0.0.0", "::"} else settings.ops_host  # noqa: S104 (compared, not bound)
    try:
        connection = HTTPConnection(host, settings.ops_port, timeout=HEALTH_TIMEOUT_SECONDS)
        connection.request("GET", "/livez")
        status = connection.getresponse().status
    except (OSError, HTTPException) as error:
        typer.echo(f"dispatcher: nothing answers on {host} port {settings.ops_port}: {error}", err=True)
        raise typer.Exit(Exit.UNHEALTHY) from None
    typer.echo("healthy" if status == 200 else f"not healthy: /livez answers {status}")
    raise typer.Exit(Exit.DONE if status == 200 else Exit.UNHEALTHY)
