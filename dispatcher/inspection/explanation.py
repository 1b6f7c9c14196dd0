"""Explains a resource or an installation: everything that is known about it, oldest first, then what happens next and when."""

from dataclasses import dataclass

from dispatcher.database.transactions import Database
from dispatcher.inspection.dispatchers import read_fleet
from dispatcher.inspection.entries import Entry, is_idle, list_future, list_past
from dispatcher.inspection.findings import MAX_SCANNED_ROWS, Found, Scope, find
from dispatcher.inspection.graces import Graces

MAX_NAMED_INSTALLATIONS = 5
"""Installations that are named at most where a resource belongs to several."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """What happened, and what happens next."""

    about: str
    """What it explains, such as `resource db_1 of installation icfg_1`."""
    happened: list[Entry]
    """Oldest first."""
    next: list[Entry]
    complete: bool
    """Whether nothing older is known and nothing was left out."""
    idle: bool
    """Whether no dispatcher is running; False if the schema is too old to tell."""
    installation_ids: list[str]
    """Of everything that it explains."""


def explain(
    database: Database,
    name: str,
    graces: Graces,
    limit: int,
    installation_id: str | None = None,
    scan_limit: int = MAX_SCANNED_ROWS,
) -> Explanation | None:
    """Explains the installation `name`, or the resource `name` if no such installation is known; with `installation_id`, that
    installation's resource. Includes at most `limit` of the newest attempts, dead letters and entries. Returns None if nothing is known.
    """
    of_resource = Scope(installation_id, name, scan_limit)
    scopes = [of_resource] if installation_id is not None else [Scope(name, None, scan_limit), of_resource]
    with database.read() as connection:
        for scope in scopes:
            found = find(connection, database, scope, graces, limit)
            if found.anything:
                happened = sorted(list_past(found), key=lambda entry: entry.at or found.now)
                complete = found.complete and len(happened) <= limit
                fleet = read_fleet(database, connection, found.now)
                upcoming = list(list_future(found, fleet))
                about, idle = _about(scope, found), is_idle(fleet)
                return Explanation(about, happened[-limit:], upcoming, complete, idle, found.installation_ids)
    return None


def _about(scope: Scope, found: Found) -> str:
    if scope.resource_id is None:
        return f"installation {scope.installation_id}"
    ids = found.installation_ids
    if not ids:  # malformed rows without one
        return f"resource {scope.resource_id}"
    more = f" and {len(ids) - MAX_NAMED_INSTALLATIONS} more" if len(ids) > MAX_NAMED_INSTALLATIONS else ""
    noun = "installation" if len(ids) == 1 else "installations"
    return f"resource {scope.resource_id} of {noun} {', '.join(ids[:MAX_NAMED_INSTALLATIONS])}{more}"
