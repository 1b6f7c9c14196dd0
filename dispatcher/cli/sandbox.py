"""`dispatcher sandbox`: a stand-in for Vercel."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from dispatcher.cli.exits import CommandFailed, Exit
from dispatcher.settings.values import parse_rate_limit, parse_token

T = TypeVar("T")
Given = TypeVar("Given")

app = typer.Typer()


@app.command()
def sandbox(
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65_535, help="The port to listen on; 0 takes a free one.")] = 8377,
    token: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TOKEN",
            help="A valid bearer token; repeatable. Other users of this machine can see it: put a real one into a"
            " --token-file.  [default: any token is valid]",
        ),
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A file of valid bearer tokens, one per line."),
    ] = None,
    rate_limit: Annotated[
        str, typer.Option(metavar="RATE", help="The rate limit of each installation, or off.")
    ] = "60/60s",
) -> None:
    """Run a stand-in for Vercel, with faults on request.

    It runs until SIGTERM or Ctrl-C. GET /requests lists the requests received, POST /faults scripts a fault, DELETE /faults removes
    all faults:

    \b
    curl 'http://127.0.0.1:8377/requests?installation=icfg_1'
    curl http://127.0.0.1:8377/faults -d '{"status": 503, "times": 20}'
    curl http://127.0.0.1:8377/faults -d '{"status": 401, "installation_id": "icfg_1"}'
    curl http://127.0.0.1:8377/faults -d '{"cut": "after", "delay": 2, "resource_id": "db_1", "times": 1}'

    A fault has one of these: "status" is that of the answer, which "error_code", "headers" and "body" change; "hang" never
    answers; "garbage" answers with bytes that are not HTTP; "cut" closes the connection "before" or "after" processing the request.
    "delay" is in seconds. "installation_id" and "resource_id" choose the requests, "times" is how many.
    """
    from dispatcher.sandbox import serve
    from dispatcher.service.http_server import PortUnavailable

    limit = _read("--rate-limit", parse_rate_limit, rate_limit)
    tokens = {_read("--token", parse_token, one).get_secret_value() for one in token or ()}
    if token_file is not None:
        tokens |= _read("--token-file", _read_tokens, token_file)
    try:
        asyncio.run(serve(host, port, frozenset(tokens) or None, limit, ready=_announce))
    except PortUnavailable as error:
        raise CommandFailed(f"{error}: give another --port, or 0 for a free one") from None


def _read(option: str, parse: Callable[[Given], T], value: Given) -> T:
    try:
        return parse(value)
    except ValueError as error:
        raise CommandFailed(f"{option} {error}", Exit.USAGE) from None


def _read_tokens(file: Path) -> set[str]:
    """The tokens in the file; empty lines are ignored. Raises ValueError."""
    try:
        lines = file.read_text("utf-8").splitlines()
    except OSError as error:
        raise ValueError(f"{file} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ValueError(f"{file} is not UTF-8 text: write one token a line") from None
    tokens = {parse_token(line).get_secret_value() for line in lines if line}
    if not tokens:  # the sandbox would take any token for valid
        raise ValueError(f"{file} is empty: write one token a line")
    return tokens


def _announce(url: str) -> None:
    typer.echo(
        f"a stand-in for Vercel listens on {url}: "
        f"run the dispatcher with DISPATCHER_VERCEL_BASE_URL={url} DISPATCHER_ALLOW_INSECURE_BASE_URL=true"
    )
