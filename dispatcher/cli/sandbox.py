"""`dispatcher sandbox`: a stand-in for Vercel."""

import asyncio
from collections.abc import Callable
from typing import Annotated, TypeVar

import typer

from dispatcher.cli.exits import CommandFailed, Exit
from dispatcher.setting_values import parse_rate_limit, parse_token

T = TypeVar("T")

app = typer.Typer()


@app.command()
def sandbox(
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65_535, help="0 takes a free one.")] = 8377,
    token: Annotated[
        list[str] | None,
        typer.Option(metavar="TOKEN", help="A bearer token that is valid, repeatable.  [default: any]"),
    ] = None,
    rate_limit: Annotated[str, typer.Option(metavar="RATE", help="For each installation; off for none.")] = "60/60s",
) -> None:
    """Stand in for Vercel until SIGTERM or Ctrl-C, with faults on request.

    GET /requests tells what was received, POST /faults scripts a fault, DELETE /faults ends them all:

    \b
    curl 'http://127.0.0.1:8377/requests?installation=icfg_1'
    curl http://127.0.0.1:8377/faults -d '{"status": 503, "times": 20}'
    curl http://127.0.0.1:8377/faults -d '{"status": 401, "installation_id": "icfg_1"}'
    curl http://127.0.0.1:8377/faults -d '{"cut": "after", "delay": 2, "resource_id": "db_1", "times": 1}'
    """
    from dispatcher.http_server import PortUnavailable
    from dispatcher.sandbox import serve

    limit = _read("--rate-limit", parse_rate_limit, rate_limit)
    tokens = frozenset(_read("--token", parse_token, one).get_secret_value() for one in token or ())
    try:
        asyncio.run(serve(host, port, tokens or None, limit, ready=_announce))
    except PortUnavailable as error:
        raise CommandFailed(f"{error}: give another --port, or 0 for a free one") from None


def _read(option: str, parse: Callable[[str], T], text: str) -> T:
    try:
        return parse(text)
    except ValueError as error:
        raise CommandFailed(f"{option} {error}", Exit.USAGE) from None


def _announce(url: str) -> None:
    typer.echo(
        f"a stand-in for Vercel listens on {url}: "
        f"run the dispatcher with DISPATCHER_VERCEL_BASE_URL={url} DISPATCHER_ALLOW_INSECURE_BASE_URL=true"
    )
