"""`dispatcher console`: the web pages for operators."""

import asyncio
import secrets
from typing import Annotated

import typer

from dispatcher.cli.exits import CommandFailed
from dispatcher.cli.signature import sign
from dispatcher.settings.settings import Settings, load_settings
from dispatcher.telemetry import configure_logging

app = typer.Typer()


@app.command()
def console(
    write: Annotated[
        bool, typer.Option("--write", help="Let people change things, under the name that they give at login.")
    ] = False,
) -> None:
    """Serve web pages of what is failing and waiting.

    They show what the other commands show, as it changes. It listens on 127.0.0.1 and prints a link with a token, until SIGTERM or
    Ctrl-C. The pages only read, unless --write. On another address it needs DISPATCHER_CONSOLE_TOKEN_FILE, or a proxy that names the
    person (DISPATCHER_CONSOLE_USER_HEADER), and DISPATCHER_CONSOLE_URL.

    \b
    dispatcher console
    DISPATCHER_CONSOLE_LABEL=production dispatcher console
    """
    from dispatcher.console.access import TokenAccess, choose_access
    from dispatcher.console.server import serve
    from dispatcher.service.http_server import PortUnavailable

    settings = load_settings()
    configure_logging(settings.log_format, settings.log_level)
    token = secrets.token_urlsafe(32)
    access = choose_access(settings, token, may_write=write)
    is_made = isinstance(access, TokenAccess) and settings.console_token is None

    def announce(url: str) -> None:
        _announce(settings, url, f"/login?token={token}" if is_made else "/", write=write)

    try:
        asyncio.run(serve(settings, access, sign(None, None).by or "", announce, may_write=write))
    except PortUnavailable as error:
        raise CommandFailed(f"{error}: set DISPATCHER_CONSOLE_PORT to another one, or to 0 for a free one") from None


def _announce(settings: Settings, local_url: str, path: str, *, write: bool) -> None:
    """Prints where the console is; a token that is a setting is not repeated."""
    url = settings.console_url or f"{local_url}{settings.console_prefix or ''}"
    typer.echo(f"the console ({'with actions' if write else 'read-only'}) is at {url}{path}")
