"""How the database thread ends. For its deadlines see `tests/contract/test_deadlines.py`."""

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy.exc import DBAPIError

from dispatcher.database.transactions import Database, open_database
from dispatcher.worker.database_thread import DatabaseThread

DEADLINE_SECONDS = 30.0
"""A busy machine must finish within this time what an idle one does immediately."""
ENDLESS = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT count(*) FROM n"


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = open_database(f"sqlite:///{tmp_path}/test.db")
    yield opened
    opened.close()


class Step:
    """A step that runs until `go_on` is set, even without its connections."""

    def __init__(self) -> None:
        self.begun, self.go_on, self.ended = threading.Event(), threading.Event(), threading.Event()

    def __call__(self, _database: Database) -> str:
        self.begun.set()
        self.go_on.wait(DEADLINE_SECONDS)
        self.ended.set()
        return "done"

    async def until_begun(self) -> None:
        assert await asyncio.to_thread(self.begun.wait, DEADLINE_SECONDS)


async def test_the_result_and_the_error_of_a_step_reach_the_caller(database: Database) -> None:
    thread = DatabaseThread(database)
    assert await thread.run(lambda argument, number: (argument is database, number), 7) == (True, 7)
    with pytest.raises(ZeroDivisionError):
        await thread.run_within(DEADLINE_SECONDS, lambda _database: 1 / 0)
    thread.close()


async def test_closing_cuts_the_connection_that_a_step_waits_for(database: Database) -> None:
    begun = threading.Event()

    def count(database: Database) -> object:
        with database.read() as connection:
            begun.set()
            return connection.exec_driver_sql(ENDLESS).scalar_one()

    thread = DatabaseThread(database, deadline=10 * DEADLINE_SECONDS)
    counting = asyncio.create_task(thread.run(count))
    assert await asyncio.to_thread(begun.wait, DEADLINE_SECONDS)
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not counting.done():  # a connection that is not in use yet cannot be cut
            thread.close()
            await asyncio.sleep(0.01)
    with pytest.raises(DBAPIError, match="interrupted"):
        await counting


async def test_closing_does_not_wait_for_a_running_step_which_still_finishes(database: Database) -> None:
    thread, step = DatabaseThread(database), Step()
    running = asyncio.create_task(thread.run(step))
    await step.until_begun()
    thread.close()
    assert not step.ended.is_set()
    step.go_on.set()
    assert await running == "done"


async def test_after_closing_no_step_begins(database: Database) -> None:
    thread, abandoned, queued, late = DatabaseThread(database), Step(), Step(), Step()
    first = asyncio.create_task(thread.run(abandoned))
    await abandoned.until_begun()
    first.cancel()
    await asyncio.wait([first])
    second = asyncio.create_task(thread.run(queued))
    await asyncio.sleep(0)  # it is queued behind the abandoned step
    thread.close()
    queued.go_on.set()
    abandoned.go_on.set()
    await asyncio.wait([second])
    assert second.cancelled()
    with pytest.raises(RuntimeError, match="shutdown"):
        await thread.run(late)
    assert not queued.begun.is_set()


async def test_closing_leaves_no_thread_behind(database: Database) -> None:
    thread = DatabaseThread(database)
    used = await thread.run(lambda _database: threading.current_thread())
    assert used.is_alive()
    thread.close()
    async with asyncio.timeout(DEADLINE_SECONDS):
        while used.is_alive():
            await asyncio.sleep(0.001)
