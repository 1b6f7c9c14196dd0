"""The whole journey in one terminal: a partner's application, the dispatcher, and a stand-in for Vercel with bad days."""

import asyncio
import logging
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, contextmanager
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

Tell = Callable[[Account], None]
ServeConsole = Callable[[Settings], AbstractAsyncContextManager[str]]
"""Serves a console on the demo's database for the duration of the block; yields a link that logs in."""


async def run_demo(say: Say, tell: Tell, serve_console: ServeConsole | None = None) -> Account:
    """Runs the demo, passing each line of its story to `say`, and what it came to, which it returns, to `tell`.

    The database is kept, for a look at it afterwards. If SIGINT or SIGTERM ends the demo, it is deleted, and KeyboardInterrupt raised.
    With a console, the dispatcher and the stand-in go on after the story until one of these signals, and the database is deleted.
    """
    configure_logging(LogFormat.AUTO, LogLevel.ERROR)
    logging.getLogger("dispatcher").disabled = True  # its lines would drown the story
    with _directory(is_kept=serve_console is None) as directory:
        path = directory / "demo.db"
        database = open_database(f"sqlite:///{path}")
        try:
            return await _run(path, database, say, tell, serve_console)
        except asyncio.CancelledError:  # by a signal that the service did not handle yet
            raise KeyboardInterrupt from None
        finally:
            database.close()


@contextmanager
def _directory(*, is_kept: bool) -> Iterator[Path]:
    """A temporary directory, which is deleted if it is not to be kept, or if the demo does not reach its end."""
    _interrupt_on_sigterm()
    directory = Path(tempfile.mkdtemp(prefix="dispatcher-demo-"))
    try:
        yield directory
    except BaseException:
        is_kept = False
        raise
    finally:
        if not is_kept:
            shutil.rmtree(directory)


def _interrupt_on_sigterm() -> None:
    """Makes SIGTERM cancel the demo as SIGINT does, until the service handles both."""
    task = asyncio.current_task()
    if task is not None and sys.platform != "win32":
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)


async def _run(path: Path, database: Database, say: Say, tell: Tell, serve_console: ServeConsole | None) -> Account:
    migration.migrate(database)
    application = Application(database)
    application.set_up()
    async with Sandbox() as sandbox:
        _script_faults(sandbox)
        say(f"Vercel's stand-in listens on {sandbox.url}; the database is {path}")
        settings = _settings(path, sandbox.url)
        async with _dispatching(settings) as dispatcher, AsyncExitStack() as stack:
            if serve_console is not None:
                say(f"the console is at {await stack.enter_async_context(serve_console(settings))}")
            await _play_to_the_end(application, sandbox, database, say, dispatcher)
            account = await asyncio.to_thread(account_for, application, sandbox.requests, database)
            tell(account)
            if serve_console is not None:
                _say_how_to_go_on(sandbox, say)
                await asyncio.wait({dispatcher})
        return account


@asynccontextmanager
async def _dispatching(settings: Settings) -> AsyncIterator[asyncio.Task[None]]:
    """Runs a dispatcher until a signal, at most for the duration of the block. Raises its error at the end."""
    stop = asyncio.Event()
    running = asyncio.create_task(service.run(settings, stop))
    try:
        yield running
    finally:
        stop.set()
        await asyncio.wait({running})
    running.result()


async def _play_to_the_end(
    application: Application, sandbox: Sandbox, database: Database, say: Say, dispatcher: asyncio.Task[None]
) -> None:
    """Returns when the story is over. Raises the dispatcher's error, or KeyboardInterrupt if a signal has ended it before."""
    watching = asyncio.create_task(_watch(application, sandbox, database, say))
    playing = asyncio.create_task(_play(application, database, say))
    try:
        await asyncio.wait({dispatcher, playing}, return_when=asyncio.FIRST_COMPLETED)
        if not playing.done():
            dispatcher.result()
            raise KeyboardInterrupt
    finally:
        application.stopped.set()
        watching.cancel()
        await asyncio.wait({playing, watching})


def _say_how_to_go_on(sandbox: Sandbox, say: Say) -> None:
    say("")
    say(
        "Everything goes on until Ctrl-C, and the database is deleted then. Vercel's stand-in still refuses the resource"
    )
    say(f"{UNKNOWN} and the token of {REVOKED}. This makes it accept both; replay and resume them in the console:")
    say(f"  curl --request DELETE {sandbox.url}/faults")


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
        console_port=0,
        console_label="demo",
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
