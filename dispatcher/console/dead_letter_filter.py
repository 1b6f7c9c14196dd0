"""The filter of dead letters: as the URL of a page or of an action has it, for the database, and as the options of a command."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Self
from urllib.parse import urlencode

from starlette.datastructures import QueryParams

from dispatcher.console.fields import read_choice, read_number, read_text, read_time
from dispatcher.inspection.causes import Cause
from dispatcher.policy.decision import DeadLetterReason
from dispatcher.store.dead_letters import NO_ERROR, NO_STATUS, Filter

MAX_ID = 2**63 - 1
MAX_STATUS = 999
ROWS = 50
MAX_ROWS = 500
_ALL = "all"
_LIST = "list"
_YES = "1"
_CONDITIONS = ("reason", "installation", "resource", "since", "status", "error", "no_error", "id", "before", "oldest")
_BETWEEN_IDS = re.compile(r"[\s,]+")


@dataclass(frozen=True, slots=True)
class Wanted:
    """The filter as the URL has it; an empty text stands for any."""

    reason: str = ""
    installation: str = ""
    resource: str = ""
    since: str = ""
    status: str = ""
    """`0`: those without an answer."""
    error: str = ""
    """The beginning of the error, with the spaces at its end."""
    no_error: str = ""
    """`1`: those without an error."""
    id: str = ""
    """With commas or spaces between them."""
    before: str = ""
    """Those with lower ids: the key of the next page."""
    oldest: str = ""
    """At most this many, the oldest; only for an action."""
    show: str = ""
    """`all`: the resolved ones too."""
    view: str = ""
    """`list`: the dead letters themselves, where their causes would be shown."""
    limit: int = ROWS

    @classmethod
    def of(cls, query: QueryParams) -> Self:
        """Reads the query of a page's URL."""
        texts = {name: query.get(name, "").strip() for name in (*_CONDITIONS, "show", "view")}
        texts |= {"error": query.get("error", ""), "id": ",".join(query.getlist("id")).strip(" ,"), "oldest": ""}
        texts |= {"no_error": ""} if texts["error"] else {}
        return cls(**texts, limit=MAX_ROWS if query.get("limit") == str(MAX_ROWS) else ROWS)

    def taken(self, oldest: str = "") -> Self:
        """Returns what an action takes of these: those of all pages that are unresolved, or only the oldest of them."""
        return replace(self, before="", oldest=oldest, show="", limit=ROWS)

    def fixed(self, now: datetime) -> Self:
        """Returns the same with a time in place of a duration before now, so that it stays the same. Raises UnusableFilter."""
        since = read_time("since", self.since, now)
        return self if since is None else replace(self, since=since.isoformat())

    @property
    def with_resolved(self) -> bool:
        """Whether resolved ones are listed too."""
        return self.show == _ALL

    @property
    def is_list(self) -> bool:
        """Whether the dead letters are shown, and not their causes: those of one cause, the resolved ones and further pages."""
        of_a_cause = self.status or self.error or self.no_error
        return (
            bool(of_a_cause or self.id or self.before or self.limit > ROWS) or self.with_resolved or self.view == _LIST
        )

    @property
    def given(self) -> dict[str, str]:
        """The conditions, by their field."""
        fields = {name: getattr(self, name) for name in _CONDITIONS}
        return {name: text for name, text in fields.items() if text}

    @property
    def options(self) -> tuple[str, ...]:
        """The same conditions as options of a command."""
        return tuple(self._words())

    def _words(self) -> Iterator[str]:
        for name, text in self.given.items():
            option, value = ("error", NO_ERROR) if name == "no_error" else (name, text)
            for one in _BETWEEN_IDS.split(value) if name == "id" else [value]:
                yield from (f"--{option}", one)

    @property
    def action_options(self) -> tuple[str, ...]:
        """The same as options of a command that changes them, which has to be told if all are meant."""
        return self.options or ("--all",)

    @property
    def command_words(self) -> tuple[str, ...]:
        """The command that shows the same."""
        if not self.is_list:
            return ("dead-letters", "causes", *self.options)
        limit = () if self.limit == ROWS else ("--limit", str(self.limit))
        return ("dead-letters", "list", *self.options, *(("--resolved",) if self.with_resolved else ()), *limit)

    @property
    def query(self) -> str:
        """The query of the URL."""
        fields = {**self.given, "show": self.show, "view": self.view}
        fields |= {} if self.limit == ROWS else {"limit": str(self.limit)}
        return urlencode({name: text for name, text in fields.items() if text})

    @property
    def url(self) -> str:
        """Where this is shown, relative to the console's root."""
        return f"dead-letters?{query}" if (query := self.query) else "dead-letters"

    @property
    def longer(self) -> str:
        """The URL of the longer list."""
        return replace(self, limit=MAX_ROWS).url

    @property
    def as_list(self) -> str:
        """The URL of the dead letters themselves."""
        return replace(self, view=_LIST).url

    @property
    def by_cause(self) -> str:
        """The URL of the causes of these dead letters, as far as they are unresolved."""
        return Wanted(self.reason, self.installation, self.resource, self.since).url

    def older(self, last_id: int) -> str:
        """Returns the URL of the next page."""
        return replace(self, before=str(last_id)).url

    def of_cause(self, cause: Cause) -> str:
        """Returns the URL of the dead letters with this cause, among these."""
        status, error = str(cause.status or NO_STATUS), cause.error_prefix or ""
        no_error = "" if cause.error_prefix else _YES
        return replace(self, reason=cause.reason, status=status, error=error, no_error=no_error).url

    def filter(self, now: datetime) -> Filter:
        """Returns the same for the database. Raises UnusableFilter."""
        return Filter(
            [id_ for text in _BETWEEN_IDS.split(self.id) if (id_ := read_number("id", text, 1, MAX_ID))],
            read_text("installation", self.installation),
            read_text("resource", self.resource),
            read_choice("reason", self.reason, DeadLetterReason),
            read_time("since", self.since, now),
            status=read_number("status", self.status, NO_STATUS, MAX_STATUS),
            error_prefix=NO_ERROR if self.no_error else read_text("error", self.error),
            before=read_number("before", self.before, 1, MAX_ID),
        )
