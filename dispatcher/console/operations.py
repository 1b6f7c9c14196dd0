"""Operations: the actions that this process runs or has run, in threads, in chunks, so that each can be stopped and looked at."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from threading import Event
from typing import Protocol

import structlog

from dispatcher.database.errors import describe_error, summarize
from dispatcher.database.transactions import Database
from dispatcher.inspection.aftermath import Replays
from dispatcher.store.dead_letters import Filter, Signature
from dispatcher.store.records import Progress

MAX_AT_ONCE = 2
"""Operations that run at the same time; others wait for their turn."""

_CLOCK_STEP = timedelta(milliseconds=1)
"""Times in the same step of SQLite's clock are equal."""


class Change(Protocol):
    """Changes rows in chunks; returns their number."""

    def __call__(self, database: Database, /, *, signature: Signature, progress: Progress) -> int: ...


class State(StrEnum):
    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    STOPPED = "stopped"  # by a person, or with the console
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Work:
    """What an operation does."""

    title: str
    """`Replay 42 dead letters`."""
    action: str
    scope: Mapping[str, object]
    """The rows, as the log names them."""
    total: int
    """The rows that it changes, as far as is known."""
    change: Change
    origin: str
    """The page to return to, relative to the console's root."""
    replayed: Filter | None = None
    """The dead letters that it replays."""


class _Stopped(Exception):
    """The operation was stopped after a chunk."""


class Operation:
    """An action of one person."""

    def __init__(self, number: int, work: Work, signature: Signature, started_at: datetime) -> None:
        self.number = number
        self.work = work
        self.signature = signature
        self.started_at = started_at
        """By the database's clock."""
        self.ended_at: datetime | None = None
        """By the same clock; None: not yet, or it has failed."""
        self.state = State.WAITING
        self.done = 0
        self.problem: str | None = None
        """Why it has failed."""
        self._stop = Event()

    @property
    def is_over(self) -> bool:
        """Whether it changes nothing any more."""
        return self.state not in {State.WAITING, State.RUNNING}

    @property
    def is_stopping(self) -> bool:
        """Whether it ends after this chunk."""
        return self._stop.is_set() and not self.is_over

    @property
    def replays(self) -> Replays | None:
        """Selects the dead letters that it has replayed."""
        if self.work.replayed is None or not self.done:
            return None
        until = None if self.ended_at is None else self.ended_at + _CLOCK_STEP
        return Replays(self.work.replayed, self.started_at, self.signature.by, until)

    def stop(self) -> None:
        """Ends it after the chunk that is under way."""
        self._stop.set()

    def run(self, database: Database) -> None:
        """Does the work, and logs its beginning and its end."""
        self._log()
        try:
            end = self._change(database)
            with suppress(Exception):  # all was changed: the time only tells its rows from those of the next
                self.ended_at = database.now()
            self.state = end
        except Exception as error:  # noqa: BLE001 (its page and the log say what it is)
            self.state, self.problem = State.FAILED, summarize(error)
            structlog.get_logger("dispatcher").error(
                "operator action failed", operation=self.number, why=describe_error(error)
            )
        self._log(done=self.done)

    def _change(self, database: Database) -> State:
        try:
            self._advance(0)
            self.state = State.RUNNING
            self.done = self.work.change(database, signature=self.signature, progress=self._advance)
        except _Stopped:
            return State.STOPPED
        return State.DONE

    def _advance(self, done: int) -> None:
        self.done = done
        if self._stop.is_set() and (done < self.work.total or not done):
            raise _Stopped

    def _log(self, **fields: object) -> None:
        structlog.get_logger("dispatcher").info(
            "operator action",
            action=self.work.action,
            by=self.signature.by,
            note=self.signature.note,
            **self.work.scope,
            operation=self.number,
            state=self.state.value,
            **fields,
        )


class Operations:
    """Runs operations on a database of their own."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.all: dict[int, Operation] = {}
        self._threads = ThreadPoolExecutor(MAX_AT_ONCE, thread_name_prefix="operation")

    def start(self, work: Work, signature: Signature, now: datetime) -> Operation:
        """Starts an operation at `now`, by the database's clock."""
        operation = Operation(len(self.all) + 1, work, signature, now)
        self.all[operation.number] = operation
        self._threads.submit(operation.run, self.database)
        return operation

    def stop(self) -> None:
        """Stops all of them, each after its chunk, and waits for that."""
        for operation in self.all.values():
            operation.stop()
        self._threads.shutdown()

    def close(self) -> None:
        """Stops all of them and closes the database."""
        self.stop()
        self.database.close()
