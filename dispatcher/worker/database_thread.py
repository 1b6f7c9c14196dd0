"""A thread in which steps in the database follow one another, each with a deadline, while the event loop goes on."""

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
"""The deadline of a step. A server that answers ends one sooner by its own limits, all tries included."""


class DatabaseThread:
    """Speaks to one database. A step that has not ended after `deadline` seconds loses its connections, and so ends with an error:
    a server that is frozen, or a proxy that swallows everything, would never end it. The next step connects anew.
    """

    def __init__(self, database: Database, deadline: float = STEP_SECONDS) -> None:
        self.database = database
        self._deadline = deadline
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="database", initializer=self._note_thread)
        self._ident = 0
        self._free = asyncio.Lock()  # a step that waits for another does not use up its time

    def _note_thread(self) -> None:
        self._ident = threading.get_ident()

    async def run(self, step: Callable[Concatenate[Database, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Returns what `step` returns for the database and these arguments; raises what it raises."""
        return await self._run(self._deadline, partial(step, self.database, *args, **kwargs))

    async def run_within(
        self, seconds: float, step: Callable[Concatenate[Database, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """The same with a shorter deadline."""
        return await self._run(min(seconds, self._deadline), partial(step, self.database, *args, **kwargs))

    async def _run(self, deadline: float, call: Callable[[], T]) -> T:
        async with self._free:
            running = asyncio.get_running_loop().run_in_executor(self._executor, call)
            while not (await asyncio.wait([running], timeout=deadline))[0]:
                self.database.cut_connections(self._ident)
            return await running

    def close(self) -> None:
        """Ends it; a step that runs loses its connections and is not waited for."""
        self.database.cut_connections(self._ident)
        self._executor.shutdown(wait=False, cancel_futures=True)
