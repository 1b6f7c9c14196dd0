"""Serves the console until SIGTERM or Ctrl-C."""

import asyncio
import signal
from collections.abc import Callable

from dispatcher.console.access import Access
from dispatcher.console.app import console_app
from dispatcher.console.operations import Operations
from dispatcher.database.transactions import Database
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


async def serve(
    settings: Settings,
    database: Database,
    access: Access,
    operator: str,
    operations: Operations | None,
    ready: Callable[[str], None],
) -> None:
    """Runs the console, see `console_app`; calls `ready` with its URL on this machine. Raises PortUnavailable."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    host = settings.console_host
    app = console_app(settings, database, access, operator, operations)
    async with serving(app, host, settings.console_port, **SERVER_OPTIONS) as port:
        ready(f"http://{f'[{host}]' if ':' in host else host}:{port}")
        await stop.wait()
        if operations is not None:
            await asyncio.to_thread(operations.stop)
