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

from dispatcher.database import schema
from dispatcher.database.transactions import Database, open_database
from dispatcher.inspection.backlog import Backlog, measure
from dispatcher.sandbox import Fault, Sandbox
from dispatcher.sandbox.demo_account import Account, settle_account
from dispatcher.sandbox.demo_application import INSTALLATIONS, REVOKED, UNKNOWN, Application, Say, change_everything
from dispatcher.service import service
from dispatcher.settings.settings import LogFormat, LogLevel, Settings
from dispatcher.telemetry import configure_logging

DELIVERY_SECONDS = 15.0
"""Seconds that the dispatcher is given to deliver everything once the last change is committed."""


async def run_demo(say: Say) -> Account:
    """Runs it, telling `say` what happens; the account says whether the law was kept.

    Its database stays for whoever wants to look further. Raises KeyboardInterrupt if SIGINT or SIGTERM ended it: then nothing stays.
    """
    configure_logging(LogFormat.AUTO, LogLevel.ERROR)
    logging.getLogger("dispatcher").disabled = True  # its lines would drown the story
    with _directory() as directory:
        path = directory / "demo.db"
        database = open_database(f"sqlite:///{path}")
        try:
            return await _run(path, database, say)
        except asyncio.CancelledError:  # before the service handled signals
            raise KeyboardInterrupt from None
        finally:
            database.close()


@contextmanager
def _directory() -> Iterator[Path]:
    """One for the demo alone, which is gone if the demo does not come to its end."""
    _interrupt_on_sigterm()
    directory = Path(tempfile.mkdtemp(prefix="dispatcher-demo-"))
    try:
        yield directory
    except BaseException:
        shutil.rmtree(directory)
        raise


def _interrupt_on_sigterm() -> None:
    """SIGTERM is as good as SIGINT, until the service handles both."""
    task = asyncio.current_task()
    if task is not None and sys.platform != "win32":
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)


async def _run(path: Path, database: Database, say: Say) -> Account:
    schema.migrate(database)
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
        return await asyncio.to_thread(settle_account, application, sandbox.requests, database)


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
    """What the application does, in a few seconds, then waits until everything has gone out."""
    await asyncio.to_thread(change_everything, application, say)
    deadline = time.monotonic() + DELIVERY_SECONDS
    while time.monotonic() < deadline and not application.stopped.is_set():
        left = await asyncio.to_thread(measure, database)
        if not left.left - left.paused:
            return
        await asyncio.sleep(0.1)


async def _watch(application: Application, sandbox: Sandbox, database: Database, say: Say) -> None:
    began, spell = time.monotonic(), False
    while True:
        await asyncio.sleep(0.5)
        if not spell and time.monotonic() - began > 1:
            spell = True
            sandbox.script(Fault(status=503, times=14))
            say(
                "a bad spell begins: Vercel answers the next 14 requests with 503. The dispatcher lets probes through, one"
            )
            say("at a time, and once Vercel is back it sends faster and faster")
        left: Backlog = await asyncio.to_thread(measure, database)
        good = sum(one.status == 201 for one in sandbox.requests)
        say(
            f"{time.monotonic() - began:4.1f} s  {len(application.changes):3} changes committed, {len(sandbox.requests):3} "
            f"requests, {good:3} successful; {left.outbox + left.due:2} due, {left.waiting:2} waiting, {left.paused} paused"
        )
