"""Serves the console: beside other work, or until SIGTERM or Ctrl-C."""

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager, closing

from dispatcher.console.access import Access
from dispatcher.console.app import console_app
from dispatcher.console.operations import Operations
from dispatcher.console.reading import open_for_reading
from dispatcher.console.writing import open_for_writing
from dispatcher.service.http_server import serving
from dispatcher.settings.settings import Settings

KEEP_ALIVE_SECONDS = 30
"""For an idle connection; a page asks every five seconds."""
GRACE_SECONDS = 5
"""For answers under way when the console is stopped."""
SERVER_OPTIONS = {
    "http": "h11",
    "ws": "none",
    "server_header": False,
    # The address of the peer itself decides whether a proxy is trusted, not what it says in X-Forwarded-For.
    "proxy_headers": False,
    "timeout_keep_alive": KEEP_ALIVE_SECONDS,
    "timeout_graceful_shutdown": GRACE_SECONDS,
}


@asynccontextmanager
async def serving_console(settings: Settings, access: Access, operator: str, *, may_write: bool) -> AsyncIterator[str]:
    """Runs the console for the duration of the block, with actions if it `may_write`; yields its URL on this machine.

    `operator` is the name that is proposed to people who may write. At its end it stops the actions, each after its chunk. Raises
    PortUnavailable.
    """
    host = settings.console_host
    with ExitStack() as stack:
        database = stack.enter_context(closing(open_for_reading(settings)))
        operations = stack.enter_context(closing(Operations(open_for_writing(settings)))) if may_write else None
        app = console_app(settings, database, access, operator, operations)
        async with serving(app, host, settings.console_port, **SERVER_OPTIONS) as port:
            try:
                yield f"http://{f'[{host}]' if ':' in host else host}:{port}"
            finally:
                if operations is not None:
                    await asyncio.to_thread(operations.stop)


async def serve(
    settings: Settings, access: Access, operator: str, ready: Callable[[str], None], *, may_write: bool
) -> None:
    """Runs the console, see `serving_console`, until SIGTERM or SIGINT; calls `ready` with its URL on this machine."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with serving_console(settings, access, operator, may_write=may_write) as url:
        ready(url)
        await stop.wait()
