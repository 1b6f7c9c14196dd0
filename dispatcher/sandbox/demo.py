"""The whole journey in one terminal: a partner's application, the dispatcher, and a stand-in for Vercel with bad days."""

import asyncio
import logging
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import SecretStr

from dispatcher.database import migration
from dispatcher.database.transactions import Database, open_database
from dispatcher.inspection.backlog import Backlog, measure
from dispatcher.sandbox import Fault, Sandbox
from dispatcher.sandbox.demo_account import Account, account_for
from dispatcher.sandbox.demo_application import INSTALLATIONS, REVOKED, UNKNOWN, Application, Say, change_everything
from dispatcher.service import service
from dispatcher.settings.settings import LogFormat, LogLevel, Settings
from dispatcher.telemetry import configure_logging

DELIVERY_SECONDS = 15.0
"""The time that the dispatcher has to deliver everything after the last change is committed."""


async def run_demo(say: Say) -> Account:
    """Runs the demo, passing each line of its story to `say`; returns what it came to.

    The database is kept, for a look at it afterwards. If SIGINT or SIGTERM ends the demo, it is deleted, and KeyboardInterrupt raised.
    """
    configure_logging(LogFormat.AUTO, LogLevel.ERROR)
    logging.getLogger("dispatcher").disabled = True  # its lines would drown the story
    with _directory() as directory:
        path = directory / "demo.db"
        database = open_database(f"sqlite:///{path}")
        try:
            return await _run(path, database, say)
        except asyncio.CancelledError:  # by a signal that the service did not handle yet
            raise KeyboardInterrupt from None
        finally:
            database.close()


@contextmanager
def _directory() -> Iterator[Path]:
    """A temporary directory, which is deleted if the demo does not reach its end."""
    _interrupt_on_sigterm()
    directory = Path(tempfile.mkdtemp(prefix="dispatcher-demo-"))
    try:
        yield directory
    except BaseException:
        shutil.rmtree(directory)
        raise


def _interrupt_on_sigterm() -> None:
    """Makes SIGTERM cancel the demo as SIGINT does, until the service handles both."""
    task = asyncio.current_task()
    if task is not None and sys.platform != "win32":
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)


async def _run(path: Path, database: Database, say: Say) -> Account:
    migration.migrate(database)
    application = Application(database)
    application.set_up()
    async with Sandbox() as sandbox:
        _script_faults(sandbox)
        say(f"Vercel's stand-in listens on {sandbox.url}; the database is {path}")
        stop = asyncio.Event()
        running = asyncio.create_task(service.run(_settings(path, sandbox.url), stop))
        watching = asyncio.create_task(_watch(application, sandbox, database, say))
        playing = asyncio.create_task(_play(application, database, say))
        try:
            await asyncio.wait({running, playing}, return_when=asyncio.FIRST_COMPLETED)
            interrupted = not playing.done()
        finally:
            application.stopped.set()
            stop.set()
            watching.cancel()
            await asyncio.wait({running, playing, watching})
        running.result()
        if interrupted:
            raise KeyboardInterrupt
        return await asyncio.to_thread(account_for, application, sandbox.requests, database)


def _settings(path: Path, url: str) -> Settings:
    return Settings(
        database_url=SecretStr(f"sqlite:///{path}"),
        vercel_base_url=url,
        allow_insecure_base_url=True,
        vercel_token=SecretStr("demo-token"),  # any will do
        backoff_base=0.2,
        backoff_cap=0.5,
        ops_host="127.0.0.1",
        ops_port=0,
    )


def _script_faults(sandbox: Sandbox) -> None:
    sandbox.script(
        Fault(installation_id=REVOKED, status=401),
        Fault(resource_id=UNKNOWN, status=404),
        Fault(installation_id=INSTALLATIONS[1], status=429, headers={"Retry-After": "1"}, times=1),
        Fault(installation_id=INSTALLATIONS[2], cut="after", times=2),
    )


async def _play(application: Application, database: Database, say: Say) -> None:
    """Makes all changes, which takes a few seconds, then waits until everything is delivered."""
    await asyncio.to_thread(change_everything, application, say)
    deadline = time.monotonic() + DELIVERY_SECONDS
    while time.monotonic() < deadline and not application.stopped.is_set():
        backlog = await asyncio.to_thread(measure, database)
        if not backlog.left - backlog.paused:
            return
        await asyncio.sleep(0.1)


async def _watch(application: Application, sandbox: Sandbox, database: Database, say: Say) -> None:
    began, outage_scripted = time.monotonic(), False
    while True:
        await asyncio.sleep(0.5)
        if not outage_scripted and time.monotonic() - began > 1:
            outage_scripted = True
            sandbox.script(Fault(status=503, times=14))
            say(
                "an outage begins: Vercel answers the next 14 requests with 503. The dispatcher sends one probe at a time,"
            )
            say("and once Vercel is back, it sends faster and faster")
        backlog: Backlog = await asyncio.to_thread(measure, database)
        successful = sum(one.status == 201 for one in sandbox.requests)
        say(
            f"{time.monotonic() - began:4.1f} s  {len(application.changes):3} changes committed, {len(sandbox.requests):3} "
            f"requests, {successful:3} successful; {backlog.outbox + backlog.due:2} due, {backlog.waiting:2} waiting, "
            f"{backlog.paused} paused"
        )
