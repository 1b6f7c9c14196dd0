"""Dead letters as operators see them: the list, one with its attempts, and what a replay or discard is about to change."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, Row

from dispatcher.database.transactions import Database
from dispatcher.outbox.tables import attempt, dead_letter
from dispatcher.policy.decision import DeadLetterReason
from dispatcher.policy.rate_window import RateLimit
from dispatcher.store.attempt_log import Attempt, is_of_subject, latest_attempts
from dispatcher.store.dead_letters import Filter, is_unresolved

SHOWN_ATTEMPTS = 50
ADVICE: Mapping[DeadLetterReason, str] = {
    DeadLetterReason.REJECTED: "Vercel refused the request and would again: correct the ids that your application writes"
    " (or DISPATCHER_VERCEL_BASE_URL, if the answer was a redirect), then replay.",
    DeadLetterReason.UNAUTHORIZED: "Vercel has not accepted the installation's token for longer than DISPATCHER_AUTH_GRACE:"
    " renew the token, then resume the installation and replay; if it was uninstalled, discard.",
    DeadLetterReason.DISABLED: "The integration has been disabled at Vercel for longer than DISPATCHER_DISABLED_GRACE:"
    " have it enabled again, then resume the installation and replay; if it is over, discard.",
    DeadLetterReason.NO_CREDENTIAL: "No token was known for the installation for longer than DISPATCHER_AUTH_GRACE:"
    " store it where the DISPATCHER_… settings look for it, then resume the installation and replay.",
    DeadLetterReason.GONE: "Vercel knows neither the resource nor the installation: if it should, import or link it, then replay;"
    " if it was deleted or uninstalled, discard, or purge the installation.",
    DeadLetterReason.EXHAUSTED: "Every attempt failed, up to DISPATCHER_MAX_ATTEMPTS: read the last error and the attempts,"
    " mend the cause or wait until Vercel has, then replay.",
    DeadLetterReason.MALFORMED: "The outbox row can never be a request, so it cannot be replayed: correct what writes it,"
    " announce the change with `dispatcher publish`, then discard.",
    DeadLetterReason.PURGED: "An operator purged the installation: discard; if that was a mistake, replay.",
}
"""What a person does about a dead letter of each reason."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A row of `vercel_dead_letter`."""

    id: int
    died_at: datetime
    reason: str
    subject_key: str | None
    installation_id: str | None
    type: str | None
    resource_id: str | None
    product_id: str | None
    billing_plan_id: str | None
    events: int
    first_event_id: int
    last_event_id: int
    first_created_at: datetime
    attempts: int
    last_status: int | None
    last_error: str | None
    resolved_at: datetime | None
    resolution: str | None
    resolved_by: str | None
    note: str | None

    @classmethod
    def of(cls, row: Row[Any]) -> "DeadLetter":
        """From the row."""
        return cls(**{name: getattr(row, name) for name in cls.__slots__})


@dataclass(frozen=True, slots=True)
class Plan:
    """What a replay or discard is about to change: so many unresolved dead letters, none of them younger than `last_id`.

    `malformed` of them cannot be replayed; the others come to `requests`, one a subject, at most `busiest` in one installation.
    """

    dead_letters: int
    malformed: int
    requests: int
    busiest: int
    last_id: int

    def seconds(self, rate: RateLimit | None, overall: RateLimit | None) -> float:
        """How long the requests take at these limits, if nothing else is to be sent."""
        return max(_pace(self.busiest, rate), _pace(self.requests, overall))


def list_dead_letters(database: Database, wanted: Filter, most: int, *, resolved: bool = False) -> list[DeadLetter]:
    """The newest `most`, newest first; those that are resolved only if asked for."""
    conditions = wanted.conditions if resolved else [is_unresolved(), *wanted.conditions]
    newest = sa.select(dead_letter).where(*conditions).order_by(dead_letter.c.id.desc()).limit(most)
    with database.read() as connection:
        return [DeadLetter.of(row) for row in connection.execute(newest)]


def find_dead_letter(database: Database, id_: int) -> tuple[DeadLetter, list[Attempt]] | None:
    """One dead letter and the newest attempts that led to it, as far as they are still kept; None if there is none."""
    with database.read() as connection:
        row = connection.execute(sa.select(dead_letter).where(dead_letter.c.id == id_)).one_or_none()
        if row is None:
            return None
        found = DeadLetter.of(row)
        return found, _attempts(connection, found)


def _attempts(connection: Connection, dead: DeadLetter) -> list[Attempt]:
    if dead.subject_key is None or dead.installation_id is None:
        return []
    led_to_it = (attempt.c.first_event_id <= dead.last_event_id, attempt.c.last_event_id >= dead.first_event_id)
    subject = is_of_subject(dead.subject_key, dead.installation_id, dead.resource_id)
    return latest_attempts(connection, SHOWN_ATTEMPTS, *subject, *led_to_it)


def plan(database: Database, wanted: Filter) -> Plan:
    """Counts what the filter finds now; what dies later is left to the next time."""
    columns = dead_letter.c
    of_installation = (
        sa.select(
            sa.func.count().label("dead_letters"),
            sa.func.count(columns.subject_key).label("replayable"),
            sa.func.count(columns.subject_key.distinct()).label("requests"),
            sa.func.max(columns.id).label("last_id"),
        )
        .where(is_unresolved(), *wanted.conditions)
        .group_by(columns.installation_id)
        .subquery()
    )
    sums = (
        sa.func.coalesce(sa.func.sum(of_installation.c[name]), 0) for name in ("dead_letters", "replayable", "requests")
    )
    most = (sa.func.coalesce(sa.func.max(of_installation.c[name]), 0) for name in ("requests", "last_id"))
    with database.read() as connection:
        dead, replayable, requests, busiest, last_id = map(int, connection.execute(sa.select(*sums, *most)).one())
    return Plan(dead, dead - replayable, requests, busiest, last_id)


def _pace(requests: int, limit: RateLimit | None) -> float:
    """Seconds from the first request to the last."""
    return 0.0 if limit is None else max(0, requests - 1) // limit.requests * limit.seconds
