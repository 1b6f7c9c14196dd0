"""The parts that `run` and `drain` share: assembles them, and shuts them down in order."""

import os
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import structlog

from dispatcher import store
from dispatcher.credentials.sources import open_credentials
from dispatcher.database.transactions import Database, open_database
from dispatcher.policy.hosts import is_local
from dispatcher.settings.contradictions import insecure_hosts
from dispatcher.settings.settings import Settings
from dispatcher.telemetry import Listener
from dispatcher.telemetry.tracing import export_traces
from dispatcher.transport import Network, open_transport
from dispatcher.vercel.client import Vercel
from dispatcher.worker.database_thread import DatabaseThread
from dispatcher.worker.worker import LOOK_SECONDS, Worker


@dataclass(frozen=True, slots=True)
class Parts:
    """A worker, its database, and a second thread for the database."""

    database: Database
    thread: DatabaseThread
    """For every other query: the worker runs its steps in a thread of its own."""
    worker: Worker

    async def anything_due(self) -> bool:
        """Whether there is anything to collect or to claim. Raises the database's errors."""
        work = await self.thread.run_within(LOOK_SECONDS, store.look, store.LOWEST_ID, store.LONG_AGO)
        return work.to_collect or work.to_claim


@asynccontextmanager
async def composed(settings: Settings, report: Listener) -> AsyncIterator[Parts]:
    """The parts, for the duration of the block; at its end the HTTP client is closed before the engine.

    Does not connect to the database yet: `check_database` does. Raises UnusableDatabaseUrl, UnusableNetwork or SettingsError.
    """
    _warn_of_clear_text(settings)
    async with AsyncExitStack() as stack:
        stack.callback(export_traces())
        database = open_database(settings.database_url.get_secret_value(), settings.database_schema)
        stack.callback(database.close)
        thread = DatabaseThread(database)
        stack.callback(thread.close)
        network = Network(settings.ca_file, trust_env_proxy=settings.trust_env_proxy)
        transport = open_transport(network, settings.vercel_base_url)
        stack.push_async_callback(transport.aclose)
        credentials = open_credentials(settings, network)
        stack.push_async_callback(credentials.aclose)
        vercel = Vercel(settings.vercel_base_url, transport, settings.request_timeout)
        worker = Worker(database, vercel, credentials, settings, report, name=f"{socket.gethostname()}:{os.getpid()}")
        stack.callback(worker.close)
        yield Parts(database, thread, worker)


def _warn_of_clear_text(settings: Settings) -> None:
    for name, host in insecure_hosts(settings):
        if not is_local(host):
            structlog.get_logger("dispatcher").warning(
                "tokens are sent unencrypted",
                setting=name,
                host=host,
                hint="write https://, and unset DISPATCHER_ALLOW_INSECURE_BASE_URL",
            )
