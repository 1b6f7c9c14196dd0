"""Checks the database at the start, and waits for one that is away: a restart would not bring it back."""

import asyncio
import time
from collections.abc import Coroutine
from typing import Any

import structlog
from sqlalchemy.exc import DBAPIError

from dispatcher.database import schema
from dispatcher.database.errors import describe_error, first_line, is_unreachable, summarize
from dispatcher.database.transactions import Database
from dispatcher.telemetry import Listener, StepFailed
from dispatcher.worker.database_thread import DatabaseThread

GRACE_SECONDS = 600.0
"""How long a database that never answered is waited for: longer than a failover or a maintenance takes. After that its address is
probably wrong; the exit code tells the platform, and a restart reads the settings again.
"""
RETRY_SECONDS = 2.0


async def check_database(thread: DatabaseThread) -> None:
    """Raises UnusableSchema, UnusableIsolation, or the database's error if the dispatcher cannot work with it."""
    found = await thread.run(schema.check)
    await thread.run(Database.check_isolation)
    if found.warning is not None:
        structlog.get_logger("dispatcher").warning("older schema", hint=found.warning)


async def wait_for_database(
    thread: DatabaseThread, report: Listener, stop: asyncio.Event, grace: float = GRACE_SECONDS
) -> None:
    """Returns when `check_database` has passed, or `stop` is set.

    Raises its errors, but that of an unreachable database only after `grace` seconds; until then, each failed attempt is reported.
    """
    logger, last = structlog.get_logger("dispatcher"), ""
    deadline = time.monotonic() + grace
    while not stop.is_set():
        try:
            await _first(check_database(thread), stop.wait())
        except DBAPIError as error:
            if not is_unreachable(error) or time.monotonic() >= deadline:
                raise
            report(StepFailed("start", summarize(error), describe_error(error)))
            if (why := first_line(error)) != last:
                logger.warning("waiting for the database", why=why)
            last = why
            await _first(asyncio.sleep(RETRY_SECONDS), stop.wait())
        else:
            return


async def _first(*steps: Coroutine[Any, Any, object]) -> None:
    """Runs the steps until one of them ends, and raises its error; the others are cancelled."""
    tasks = [asyncio.ensure_future(step) for step in steps]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
    for task in done:
        task.result()
