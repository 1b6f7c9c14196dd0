"""The dead letters that an action takes, as URLs and commands name them: by the fields of the commands' options."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Self
from urllib.parse import urlencode

from starlette.datastructures import QueryParams

from dispatcher.policy.decision import DeadLetterReason
from dispatcher.settings.durations import parse_since
from dispatcher.store.dead_letters import NO_ERROR, Filter

Fields = Mapping[str, object]
"""Values by the name of their option; a list has several, None stands for any."""
NAMES = ("id", "installation", "resource", "reason", "status", "error", "since")
MAX_ID = 2**63 - 1
MAX_STATUS = 999


class UnusableSelection(Exception):
    """A field cannot be used. The message says which, and why."""


@dataclass(frozen=True, slots=True)
class Selection:
    """A filter of dead letters, and at most how many of them, the oldest."""

    pairs: tuple[tuple[str, str], ...]
    oldest: int | None = None

    @classmethod
    def of(cls, query: QueryParams) -> Self:
        """Reads the query of a URL. An empty error stands for dead letters without one. Raises UnusableSelection."""
        given = ((name, query.getlist(name) if name == "id" else query.getlist(name)[-1:]) for name in NAMES)
        pairs = tuple((name, text) for name, texts in given for text in texts if text or name == "error")
        return cls(pairs, _number("oldest", query["oldest"]) if query.get("oldest") else None)

    def taking(self, oldest: int | None) -> Self:
        """Returns the same with another number of them."""
        return replace(self, oldest=oldest)

    def fixed(self, now: datetime) -> Self:
        """Returns the same with a point in time in the place of a duration before now, so that it stays the same later on."""
        pairs = tuple((name, _time(text, now).isoformat() if name == "since" else text) for name, text in self.pairs)
        return replace(self, pairs=pairs)

    @property
    def query(self) -> str:
        """The query of the URL."""
        return query_of({**self._fields, "oldest": self.oldest})

    @property
    def options(self) -> tuple[str, ...]:
        """The options of the command that takes the same."""
        return options_of({**self._fields, "oldest": self.oldest})

    @property
    def origin(self) -> str:
        """The page that shows these dead letters, relative to the console's root."""
        ids = self._ids
        if len(ids) == 1:
            return f"dead-letters/{ids[0]}"
        fields = {name: value for name, value in self._fields.items() if name != "id"}
        fields |= {"no_error": "1"} if fields.get("error") == NO_ERROR else {}
        query = query_of(fields)
        return f"dead-letters{'?' if query else ''}{query}"

    def filter(self, now: datetime) -> Filter:
        """Returns the same for the database. Raises UnusableSelection."""
        fields = dict(self.pairs)
        return Filter(
            self._ids,
            fields.get("installation"),
            fields.get("resource"),
            _reason(fields["reason"]) if "reason" in fields else None,
            _time(fields["since"], now) if "since" in fields else None,
            _number("status", fields["status"], 0, MAX_STATUS) if "status" in fields else None,
            fields.get("error"),
        )

    @property
    def _ids(self) -> tuple[int, ...]:
        return tuple(_number(name, text) for name, text in self.pairs if name == "id")

    @property
    def _fields(self) -> dict[str, object]:
        ids = [text for name, text in self.pairs if name == "id"]
        return {**dict(self.pairs), **({"id": ids} if ids else {})}


def query_of(fields: Fields) -> str:
    """Returns the query of a URL."""
    return urlencode(list(_flat(fields)))


def options_of(fields: Fields) -> tuple[str, ...]:
    """Returns the options of a command."""
    return tuple(word for name, text in _flat(fields) for word in (f"--{name}", text)) or ("--all",)


def _flat(fields: Fields) -> Iterator[tuple[str, str]]:
    for name, value in fields.items():
        values: Sequence[object] = value if isinstance(value, list) else [] if value is None else [value]
        yield from ((name, str(one)) for one in values)


def _reason(text: str) -> DeadLetterReason:
    try:
        return DeadLetterReason(text)
    except ValueError:
        raise UnusableSelection(f"There is no reason {text}: it is one of {', '.join(DeadLetterReason)}.") from None


def _time(text: str, now: datetime) -> datetime:
    try:
        return parse_since(text, lambda: now)
    except ValueError as error:
        raise UnusableSelection(f"since {error}") from None


def _number(name: str, text: str, lowest: int = 1, highest: int = MAX_ID) -> int:
    number = int(text) if text.isascii() and text.isdigit() and len(text) <= len(str(MAX_ID)) else -1
    if not lowest <= number <= highest:
        raise UnusableSelection(f"{name} has to be a number from {lowest:,} to {highest:,}.")
    return number
