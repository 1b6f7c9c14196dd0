"""One answer for all browsers: the blocks of *Now* that are read beside the status."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic

from dispatcher.console.reading import SHARED_SECONDS, Reader, Result, Unreadable, shared_seconds
from dispatcher.database.transactions import Database


@dataclass(frozen=True, slots=True)
class Block(Generic[Result]):
    """An answer, and why there is no newer one."""

    value: Result | None
    """None: there has been none yet."""
    why: str | None


class Shared(Generic[Result]):
    """Asks one question at most once in two seconds, and less often if the answer takes long. A failure is shared too, and leaves the other
    blocks of the page alone.
    """

    def __init__(
        self, reader: Reader, question: Callable[[Database], Result], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.last: Block[Result] = Block(None, "not read yet")
        self._reader = reader
        self._question = question
        self._clock = clock
        self._lock = asyncio.Lock()
        self._ends_at = clock()

    async def read(self) -> Block[Result]:
        """Returns the newest answer, which is shared."""
        async with self._lock:
            if self._clock() >= self._ends_at:
                began = self._clock()
                self.last = await self._ask()
                ended = self._clock()
                self._ends_at = ended + (shared_seconds(ended - began) if self.last.why is None else SHARED_SECONDS)
            return self.last

    async def _ask(self) -> Block[Result]:
        try:
            return Block(await self._reader.ask(self._question), None)
        except Unreadable as error:
            return Block(self.last.value, str(error))
