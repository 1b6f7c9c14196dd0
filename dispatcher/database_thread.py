"""The one thread in which a worker's steps in the database follow one another, while its event loop sends."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Concatenate, ParamSpec, TypeVar

from dispatcher.database import Database

P = ParamSpec("P")
T = TypeVar("T")


class DatabaseThread:
    """Speaks to one database."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="database")

    async def run(self, step: Callable[Concatenate[Database, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What `step` returns for the database and these arguments; raises what it raises."""
        call = partial(step, self.database, *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(self._executor, call)

    def close(self) -> None:
        """Ends it; a step that runs is not waited for."""
        self._executor.shutdown(wait=False, cancel_futures=True)
