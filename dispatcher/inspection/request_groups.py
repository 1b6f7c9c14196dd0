"""The newest requests, grouped by what they came to."""

from dataclasses import dataclass
from datetime import datetime

from dispatcher.database.transactions import Database
from dispatcher.inspection.error_prefix import error_prefix
from dispatcher.inspection.requests import RequestFilter, Scope, read_searched
from dispatcher.store.attempt_log import Attempt

MAX_GROUPED_ROWS = 5_000
"""The newest requests that are grouped at most."""


@dataclass(frozen=True, slots=True)
class RequestGroup:
    """Requests with the same outcome, status, error code and beginning of the error."""

    outcome: str
    status: int | None
    error_code: str | None
    error_prefix: str | None
    """The beginning of their errors, up to the first number or id; None without an error."""
    requests: int
    installations: int
    first_at: datetime
    newest: Attempt


@dataclass(frozen=True, slots=True)
class Groups:
    """The groups of the requests that match, the largest first."""

    groups: list[RequestGroup]
    scope: Scope


def group_requests(database: Database, wanted: RequestFilter, scan_limit: int = MAX_GROUPED_ROWS) -> Groups:
    """Groups the requests that match, of the newest `scan_limit` with the ids and within the times of the filter."""
    found, scope = read_searched(database, wanted, scan_limit)
    members: dict[tuple[object, ...], list[Attempt]] = {}
    for one in found:
        members.setdefault((one.outcome, one.status, one.error_code, _prefix(one)), []).append(one)
    return Groups(sorted(map(_group, members.values()), key=lambda group: -group.requests), scope)


def _group(requests: list[Attempt]) -> RequestGroup:
    newest = requests[-1]
    return RequestGroup(
        newest.outcome,
        newest.status,
        newest.error_code,
        _prefix(newest),
        requests=len(requests),
        installations=len({one.installation_id for one in requests}),
        first_at=requests[0].at,
        newest=newest,
    )


def _prefix(request: Attempt) -> str | None:
    ids = (request.installation_id, request.resource_id, request.product_id)
    return None if request.error is None else error_prefix(request.error, ids)
