"""The filter of requests: as the URL has it, for the log of attempts, and as the options of a command."""

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Self
from urllib.parse import urlencode

from starlette.datastructures import QueryParams

from dispatcher.console.fields import read_choice, read_number, read_text, read_time
from dispatcher.inspection.request_groups import RequestGroup
from dispatcher.inspection.requests import RequestFilter
from dispatcher.policy.outcome import OutcomeKind

FAILING = "failing"
"""As an outcome: any but delivered."""
MIN_STATUS, MAX_STATUS = 100, 599
ROWS = 50
_CONDITIONS = ("outcome", "status", "installation", "resource", "since", "until")


@dataclass(frozen=True, slots=True)
class Wanted:
    """The filter as the URL has it; an empty text stands for any."""

    outcome: str = ""
    """An `OutcomeKind`, or `FAILING`."""
    status: str = ""
    installation: str = ""
    resource: str = ""
    since: str = ""
    until: str = ""

    @classmethod
    def of(cls, query: QueryParams) -> Self:
        return cls(*(query.get(name, "").strip() for name in _CONDITIONS))

    @property
    def given(self) -> dict[str, str]:
        """The conditions, by their field."""
        return {name: text for name in _CONDITIONS if (text := getattr(self, name))}

    @property
    def options(self) -> tuple[str, ...]:
        """The same conditions as options of a command."""
        others = (word for name, text in self.given.items() for word in (f"--{name}", text))
        if self.outcome != FAILING:
            return tuple(others)
        return ("--failed", *replace(self, outcome="").options)

    @property
    def url(self) -> str:
        """Where they are shown, relative to the console's root."""
        return f"requests?{urlencode(self.given)}" if self.given else "requests"

    def of_group(self, group: RequestGroup) -> str:
        """Returns the URL of the requests with the outcome and the status of this group, among these."""
        return replace(self, outcome=group.outcome, status=str(group.status or "")).url

    def filter(self, now: datetime) -> RequestFilter:
        """Returns the same for the log. Raises UnusableFilter."""
        is_failing = self.outcome == FAILING
        return RequestFilter(
            read_text("installation", self.installation),
            read_text("resource", self.resource),
            failed=is_failing,
            outcome=None if is_failing else read_choice("outcome", self.outcome, OutcomeKind),
            status=read_number("status", self.status, MIN_STATUS, MAX_STATUS),
            since=read_time("since", self.since, now),
            until=read_time("until", self.until, now),
        )
