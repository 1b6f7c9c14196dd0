"""The chart of the last hour: what each minute came to, each read once, and open if there may be more."""

import re
from collections.abc import Container
from datetime import UTC, datetime, timedelta
from functools import partial
from html import unescape

import pytest

from dispatcher.console import minutes as chart
from dispatcher.console.minutes import Bar, Minutes, Piece, draw
from dispatcher.database.transactions import Database
from dispatcher.inspection.minutes import Minute, outcomes_by_minute
from tests.console.conftest import Console, on_two_databases, words
from tests.console.test_requests import make, shown_ids

AT = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


class Clock:
    """A database at a time that the test sets, and the minutes that it was asked for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.time = AT + timedelta(seconds=30)
        self.asked: list[datetime] = []
        monkeypatch.setattr(chart, "outcomes_by_minute", self.read)

    def now(self) -> datetime:
        return self.time

    def read(self, _: Database, minutes: int, known: Container[datetime]) -> list[Minute]:
        present = self.time.replace(second=0)
        times = [present - ago * MINUTE for ago in reversed(range(minutes))]
        self.asked = [at for at in times if at not in known]
        return [Minute(at, 1, 0, 0, capped=False) for at in self.asked]


def test_a_second_reading_asks_only_for_the_minutes_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, minutes = Clock(monkeypatch), Minutes()
    assert len(minutes.read(clock)) == len(clock.asked) == 60  # type: ignore[arg-type]  # it is only asked for the time
    for seconds, asked in ((40, [AT]), (65, [AT, AT + MINUTE]), (70, [AT, AT + MINUTE]), (75, [AT + MINUTE])):
        clock.time = AT + timedelta(seconds=seconds)
        read = minutes.read(clock)  # type: ignore[arg-type]
        assert clock.asked == asked
        assert [one.at for one in read] == [clock.time.replace(second=0) - ago * MINUTE for ago in range(59, -1, -1)]
    clock.time = AT + timedelta(hours=3)
    assert len(minutes.read(clock)) == len(clock.asked) == 60  # type: ignore[arg-type]


@on_two_databases
def test_what_is_kept_is_what_was_read(database: Database) -> None:
    make(database, "delivered", 2, minutes=5)
    minutes = Minutes()
    first, second = minutes.read(database), minutes.read(database)
    assert sum(one.delivered for one in first) == sum(one.delivered for one in second) == 2
    known = {one.at for one in second}
    assert known.isdisjoint(one.at for one in outcomes_by_minute(database, known=known))


def test_a_bar_is_stacked_and_leads_to_its_requests() -> None:
    chart_ = draw([Minute(AT, 30, 10, 0, capped=False), Minute(AT + MINUTE, 0, 0, 0, capped=False)])
    (bar,) = chart_.bars
    assert isinstance(bar, Bar)
    assert bar.pieces == (Piece("good", 31.0, 69.0), Piece("bad", 8.0, 23.0))
    assert (bar.x, bar.width, bar.number) == (0, 42.5, "40")
    assert bar.link == "requests?since=2026-01-31T12%3A00&until=2026-01-31T12%3A01"
    assert bar.title == "12:00 UTC: 40 requests, 30 delivered, 10 failed, 0 throttled"
    assert draw([]).bars == ()


@on_two_databases
async def test_a_bar_counts_the_rows_it_leads_to(console: Console, database: Database) -> None:
    make(database, "delivered", 4, status=200, minutes=3)
    make(database, "throttled", 2, status=429, minutes=10)
    html = (await console.get("")).text
    details = html[html.index('<details id="minutes">') : html.index("</details>")]
    rows = re.findall(r'<tr><td><a href="\./([^"]+)">.*?<td class="n">(\d+)</td>', details)
    assert [number for _, number in rows] == ["4", "2"]
    assert html.count('tabindex="-1"><title>') == 2
    for link, number in rows:
        assert len(shown_ids((await console.get(unescape(link))).text)) == int(number)


async def test_a_capped_minute_is_open_and_says_so(
    console: Console, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chart, "outcomes_by_minute", partial(outcomes_by_minute, cap=3))
    make(database, "delivered", 4, minutes=3)
    html = (await console.get("")).text
    assert html.count('class="open"') == 1
    assert "≥ 3 requests, 3 delivered" in html
    assert "up to ≥ 3;" in words(html)
    assert "a dashed top: there may be more" in words(html)


@on_two_databases
async def test_of_two_thousand_requests_a_second_the_first_of_the_minute_are_counted(
    console: Console, database: Database
) -> None:
    for _ in range(3):
        make(database, "delivered", 2_000, minutes=3)  # in two seconds, which may be of two minutes
    html = (await console.get("")).text
    assert "≥ 2,000 requests, 2,000 delivered, 0 failed, 0 throttled" in html
    assert "up to ≥ 2,000;" in words(html)
    assert 'class="open"' in html
