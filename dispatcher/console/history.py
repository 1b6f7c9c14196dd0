"""An explanation as its page shows it: equal attempts in a row are one line, and the future is in the order of time. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby

from dispatcher.inspection.entries import Entry
from dispatcher.policy.outcome import OutcomeKind

MIN_FOLDED_ATTEMPTS = 3
"""Fewer equal attempts are a line each."""
_LAST = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Kind:
    """What an entry is, as a word and as an icon."""

    word: str
    icon: str
    tone: str = ""
    """Its class in the style sheet."""


_KINDS = {
    "event": Kind("event", "event"),
    "pause": Kind("paused", "warn", "warn"),
    "dead_letter": Kind("dead letter", "bad", "tone-bad"),
    "resolution": Kind("resolved", "good", "tone-good"),
    "next": Kind("next", "clock"),
}
_TONES = {OutcomeKind.DELIVERED: Kind("", "good", "tone-good"), OutcomeKind.THROTTLED: Kind("", "warn", "warn")}


@dataclass(frozen=True, slots=True)
class Line:
    """An entry, or equal attempts in a row."""

    entries: Sequence[Entry]
    """Oldest first."""

    @property
    def first(self) -> Entry:
        """The oldest."""
        return self.entries[0]

    @property
    def last(self) -> Entry:
        """The newest."""
        return self.entries[-1]

    @property
    def kind(self) -> Kind:
        """Of all its entries."""
        if self.first.outcome is None:
            return _KINDS[self.first.what]
        look = _TONES.get(OutcomeKind(self.first.outcome), Kind("", "bad", "tone-bad"))
        return Kind(self.first.outcome.replace("_", " "), look.icon, look.tone)

    @property
    def summary(self) -> str:
        """`12 × failed 502 in 71–90 ms, attempts 1–12`."""
        status = "" if self.first.status is None else f" {self.first.status}"
        times = [entry.duration_ms or 0 for entry in self.entries]
        numbers = [entry.attempt or 0 for entry in self.entries]
        in_order = numbers == list(range(numbers[0], numbers[0] + len(numbers)))
        attempts = f", attempts {numbers[0]:,}–{numbers[-1]:,}" if in_order else ""
        return f"{len(self.entries):,} × {self.kind.word}{status} in {_span(min(times), max(times))} ms{attempts}"


def fold(happened: Iterable[Entry]) -> list[Line]:
    """Returns the lines of the past."""
    lines: list[Line] = []
    for key, run in groupby(happened, _equality):
        entries = tuple(run)
        if key is not None and len(entries) >= MIN_FOLDED_ATTEMPTS:
            lines.append(Line(entries))
        else:
            lines += [Line((entry,)) for entry in entries]
    return lines


def in_order(upcoming: Iterable[Entry]) -> list[Line]:
    """Returns the lines of the future, the soonest first; last those whose time is not known."""
    return [Line((entry,)) for entry in sorted(upcoming, key=lambda entry: entry.at or _LAST)]


def _equality(entry: Entry) -> tuple[object, ...] | None:
    """Returns what equal attempts have in common; None for anything else."""
    if entry.outcome is None:
        return None
    result = (entry.outcome, entry.status, entry.decision, entry.reason)
    return (entry.installation_id, entry.type, entry.resource_id, *result)


def _span(least: int, most: int) -> str:
    return f"{least:,}" if least == most else f"{least:,}–{most:,}"
