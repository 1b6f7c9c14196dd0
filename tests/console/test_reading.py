"""The readings that all browsers share."""

import asyncio

import pytest

from dispatcher.console import reading
from dispatcher.console.reading import QUICK_SECONDS, SHARED_SECONDS, Reader, Unreadable
from dispatcher.database.schema import UnusableSchema
from dispatcher.database.transactions import Database
from dispatcher.inspection.status import Status, read_status

UNUSABLE = UnusableSchema("run `dispatcher migrate`")


class Readings:
    """Counts the readings of a database, which take `seconds`; with a `failure`, they fail."""

    def __init__(self, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.made = 0
        self.seconds = 0.0
        self.failure: Exception | None = None
        self.reader = Reader(database, logs_successes=True, clock=lambda: self.now)
        monkeypatch.setattr(reading, "read_status", self._read)

    def _read(self, database: Database, *, logs_successes: bool, max_dead_letters: int) -> Status:
        self.made += 1
        self.now += self.seconds
        if self.failure is not None:
            raise self.failure
        return read_status(database, logs_successes=logs_successes, max_dead_letters=max_dead_letters)


@pytest.fixture
async def readings(database: Database, monkeypatch: pytest.MonkeyPatch) -> Readings:
    return Readings(database, monkeypatch)


async def test_however_many_look_there_is_one_reading_in_two_seconds(readings: Readings) -> None:
    first = await asyncio.gather(*(readings.reader.status() for _ in range(10)))
    readings.now = SHARED_SECONDS - 0.1
    first.append(await readings.reader.status())
    assert len({id(one) for one in first}) == readings.made == 1
    readings.now = SHARED_SECONDS
    assert await readings.reader.status() is not first[0]
    assert readings.made == 2


async def test_a_reading_that_takes_long_is_shared_for_longer(readings: Readings) -> None:
    readings.seconds = 5 * QUICK_SECONDS
    first = await readings.reader.status()
    readings.now = readings.seconds + 5 * SHARED_SECONDS - 0.1
    assert await readings.reader.status() is first
    readings.now = readings.seconds + 5 * SHARED_SECONDS
    assert await readings.reader.status() is not first


async def test_a_status_that_takes_too_long_says_so_and_is_tried_again(
    readings: Readings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readings.reader._database.dialect, "is_timeout", lambda error: error is readings.failure)
    readings.seconds, readings.failure = 5.0, ArithmeticError()
    with pytest.raises(Unreadable, match="the status took longer than 5 s to read"):
        await readings.reader.status()
    readings.now, readings.failure = readings.seconds + SHARED_SECONDS, None
    await readings.reader.status()
    assert readings.made == 2


async def test_a_failure_is_shared_too_and_knows_the_last_reading(readings: Readings) -> None:
    last = await readings.reader.status()
    readings.now, readings.failure = SHARED_SECONDS, UNUSABLE
    for _ in range(3):
        with pytest.raises(Unreadable, match="run `dispatcher migrate`") as failed:
            await readings.reader.status()
        assert failed.value.last is last
    assert readings.made == 2
    readings.now, readings.failure = 2 * SHARED_SECONDS, None
    assert (await readings.reader.status()).status.at >= last.status.at


async def test_time_goes_on_after_a_reading(readings: Readings) -> None:
    last = await readings.reader.status()
    readings.now = 1.5
    assert (readings.reader.now(last) - last.status.at).total_seconds() == 1.5


async def test_a_bug_is_not_taken_for_a_database_that_is_away(readings: Readings) -> None:
    readings.failure = ZeroDivisionError()
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            await readings.reader.status()
    with pytest.raises(ZeroDivisionError):
        await readings.reader.ask(lambda _: 1 // 0)
