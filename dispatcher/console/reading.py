"""Reads the database for the pages, in threads. However many browsers look, the status is read at most once in two seconds."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeVar

from dispatcher.database import schema
from dispatcher.database.engine import UnusableDatabaseUrl
from dispatcher.database.errors import is_unreachable, summarize
from dispatcher.database.schema import UnusableSchema
from dispatcher.database.transactions import Database, open_database
from dispatcher.inspection.status import Status, read_status
from dispatcher.settings.settings import Settings

Result = TypeVar("Result")

SHARED_SECONDS = 2.0
"""A reading, or the reason why there is none, is shared by all pages for this long, or longer; see `shared_seconds`."""
QUICK_SECONDS = 0.2
"""One that takes several times longer is shared for as many times longer: the database spends a tenth of its time on it, not all."""

MAX_READ_DEAD_LETTERS = 20_000
"""Unresolved dead letters that are read at most for their number or their causes; a command reads more."""
STATEMENT_SECONDS = 5
"""Nobody waits for a page longer; a command may take more."""
TOO_SLOW = f"it took longer than {STATEMENT_SECONDS} s to read: narrow the filter, or run the command in a terminal"
STATUS_TOO_SLOW = f"the status took longer than {STATEMENT_SECONDS} s to read; `dispatcher status` waits for longer"


def shared_seconds(taken: float) -> float:
    """Returns for how long a reading is shared that has taken this many seconds."""
    return SHARED_SECONDS * max(1.0, taken / QUICK_SECONDS)


def open_for_reading(settings: Settings) -> Database:
    """Opens the database of the settings so that it refuses every write."""
    url = settings.database_url.get_secret_value()
    return open_database(url, settings.database_schema, statement_seconds=STATEMENT_SECONDS, read_only=True)


@dataclass(frozen=True, slots=True)
class Reading:
    """The status as of one moment."""

    status: Status
    warning: str | None
    """What does not work because the schema is older than this program."""
    read_at: float
    """By this process's monotonic clock."""
    refusal: str | None
    """Why the database takes no changes, if actions are offered."""

    def now(self, clock: float) -> datetime:
        """Returns the time by the database's clock."""
        return self.status.at + timedelta(seconds=max(0.0, clock - self.read_at))


class Unreadable(Exception):
    """The database cannot be read at present, or not by this program. The message says why."""

    def __init__(self, why: str, last: Reading | None) -> None:
        super().__init__(why)
        self.last = last
        """The newest reading that there is."""


class TooSlow(Unreadable):
    """A statement took too long; others may not."""


class Reader:
    """Reads one database."""

    def __init__(
        self,
        database: Database,
        refusal: Callable[[], str | None] | None = None,
        *,
        logs_successes: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._refusal = refusal
        self._logs_successes = logs_successes
        self._clock = clock
        self._lock = asyncio.Lock()
        self._ends_at = clock()
        self._last: Reading | None = None
        self._why: str | None = None

    def now(self, reading: Reading) -> datetime:
        """Returns the time by the database's clock, as of that reading."""
        return reading.now(self._clock())

    async def status(self) -> Reading:
        """Returns the newest reading, which is shared. Raises Unreadable."""
        async with self._lock:
            if self._clock() >= self._ends_at:
                await self._renew()
        if self._last is None or self._why is not None:
            raise Unreadable(self._why or "", self._last)
        return self._last

    async def ask(self, question: Callable[[Database], Result]) -> Result:
        """Returns the answer of a function of `inspection/`. Raises Unreadable."""
        try:
            return await asyncio.to_thread(question, self._database)
        except Exception as error:
            if self._database.dialect.is_timeout(error):
                raise TooSlow(TOO_SLOW, self._last) from error
            if (why := self._explain(error)) is None:
                raise
            raise Unreadable(why, self._last) from error

    async def _renew(self) -> None:
        began, shared = self._clock(), SHARED_SECONDS
        try:
            self._last, self._why = await asyncio.to_thread(self._read), None
            shared = shared_seconds(self._clock() - began)
        except Exception as error:
            if (why := self._explain(error)) is None:
                raise
            self._why = why
        self._ends_at = self._clock() + shared

    def _read(self) -> Reading:
        schema.refuse_missing_file(self._database)
        warning = schema.check(self._database).warning
        status = read_status(
            self._database, logs_successes=self._logs_successes, max_dead_letters=MAX_READ_DEAD_LETTERS
        )
        return Reading(status, warning, self._clock(), self._refusal and self._refusal())

    def _explain(self, error: Exception) -> str | None:
        """Returns why the database cannot be read at present; None for any other error."""
        if isinstance(error, UnusableSchema | UnusableDatabaseUrl):
            return str(error)
        if self._database.dialect.is_timeout(error):
            return STATUS_TOO_SLOW
        return summarize(error) if is_unreachable(error) else None
