"""The requests of each of the last 60 minutes as a chart. Minutes that are over are read once, and then kept by this process."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from urllib.parse import urlencode

from dispatcher.database.transactions import Database
from dispatcher.inspection.minutes import Minute, outcomes_by_minute

MINUTES = 60
SETTLED_AFTER = timedelta(seconds=10)
"""After its end, a minute may still get requests that began in it: they are logged when they are settled."""
OPEN_SHARE = 8
"""Per cent of the chart's height, above the bars, in which those of capped minutes are drawn open."""
BAR_SHARE = 0.85
"""Of a minute's width; the rest parts the bars."""
_MINUTE = timedelta(minutes=1)


class Minutes:
    """The minutes that were read."""

    def __init__(self) -> None:
        self._kept: dict[datetime, Minute] = {}

    def read(self, database: Database) -> list[Minute]:
        """Returns the last 60 minutes, oldest first; asks only for those that are not kept yet."""
        now = database.now()
        read = outcomes_by_minute(database, MINUTES, known=self._kept)
        minutes = sorted([*self._kept.values(), *read], key=lambda one: one.at)[-MINUTES:]
        self._kept = {one.at: one for one in minutes if one.at + _MINUTE + SETTLED_AFTER <= now}
        return minutes


@dataclass(frozen=True, slots=True)
class Piece:
    """The requests of a bar with one outcome; in per cent of the chart's height."""

    tone: str
    y: float
    height: float


@dataclass(frozen=True, slots=True)
class Bar:
    """One minute of the chart."""

    minute: Minute
    x: float
    """In per cent of the chart's width."""
    width: float
    pieces: tuple[Piece, ...]
    number: str
    link: str
    """The URL of its requests, relative to the console's root."""
    title: str


@dataclass(frozen=True, slots=True)
class Chart:
    """The bars of the minutes that had requests, oldest first."""

    bars: tuple[Bar, ...]
    highest: str
    """The number of requests of the highest bar."""
    is_capped: bool


def draw(minutes: Sequence[Minute]) -> Chart:
    """Returns the chart of consecutive minutes."""
    highest = max(minutes, key=_total, default=None)
    if highest is None:
        return Chart((), "0", is_capped=False)
    bars = tuple(_bar(one, place, len(minutes), _total(highest)) for place, one in enumerate(minutes) if _total(one))
    return Chart(bars, _number(highest), any(one.capped for one in minutes))


def _bar(minute: Minute, place: int, minutes: int, highest: int) -> Bar:
    number, slot = _number(minute), 100 / minutes
    title = (
        f"{minute.at:%H:%M} UTC: {number} requests, {minute.delivered:,} delivered,"
        f" {minute.failed:,} failed, {minute.throttled:,} throttled"
    )
    x, width = round(place * slot, 2), round(BAR_SHARE * slot, 2)
    return Bar(minute, x, width, tuple(_pieces(minute, highest)), number, _link(minute), title)


def _pieces(minute: Minute, highest: int) -> Iterator[Piece]:
    """Returns the pieces from the bottom to the top."""
    bottom = 100.0
    for tone, requests in (("good", minute.delivered), ("wait", minute.throttled), ("bad", minute.failed)):
        if requests:
            height = (100 - OPEN_SHARE) * requests / highest
            bottom -= height
            yield Piece(tone, round(bottom, 2), round(height, 2))


def _total(minute: Minute) -> int:
    return minute.delivered + minute.failed + minute.throttled


def _number(minute: Minute) -> str:
    return f"{'≥ ' if minute.capped else ''}{_total(minute):,}"


def _link(minute: Minute) -> str:
    since, until = (f"{at.astimezone(UTC):%Y-%m-%dT%H:%M}" for at in (minute.at, minute.at + _MINUTE))
    return f"requests?{urlencode({'since': since, 'until': until})}"
