"""A thread that runs one database step after another, each with a deadline, while the event loop continues."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Concatenate, ParamSpec, TypeVar

from dispatcher.database.transactions import Database

P = ParamSpec("P")
T = TypeVar("T")

STEP_SECONDS = 45.0
"""The deadline of a step. If the server responds, its own limits end the step earlier, retries included."""


class DatabaseThread:
    """Runs steps in one database. After `deadline` seconds a step loses its connections and so ends with an error: with a frozen server,
    or a proxy that drops everything, it would never end. The next step opens a new connection.
    """

    def __init__(self, database: Database, deadline: float = STEP_SECONDS) -> None:
        self.database = database
        self._deadline = deadline
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="database", initializer=self._note_thread)
        self._ident = 0
        self._free = asyncio.Lock()  # waiting for another step does not count against the deadline

    def _note_thread(self) -> None:
        self._ident = threading.get_ident()

    async def run(self, step: Callable[Concatenate[Database, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Calls `step` with the database and these arguments; returns its result and raises its errors."""
        return await self._run(self._deadline, partial(step, self.database, *args, **kwargs))

    async def run_within(
        self, seconds: float, step: Callable[Concatenate[Database, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Does the same with a deadline of `seconds`, if that is shorter."""
        return await self._run(min(seconds, self._deadline), partial(step, self.database, *args, **kwargs))

    async def _run(self, deadline: float, call: Callable[[], T]) -> T:
        async with self._free:
            running = asyncio.get_running_loop().run_in_executor(self._executor, call)
            while not (await asyncio.wait([running], timeout=deadline))[0]:
                self.database.cut_connections(self._ident)
            return await running

    def close(self) -> None:
        """Ends the thread. A running step loses its connections; its end is not awaited."""
        self.database.cut_connections(self._ident)
        self._executor.shutdown(wait=False, cancel_futures=True)
