"""The log of attempts, as it is read: newest first in the database, in the order of time for people."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import ColumnElement, Connection, Row

from dispatcher.outbox.tables import attempt


@dataclass(frozen=True, slots=True)
class Attempt:
    """A row of `vercel_attempt`: one request, what it came to and what was decided."""

    id: int
    at: datetime
    subject_key: str
    installation_id: str
    type: str
    resource_id: str | None
    product_id: str | None
    attempt: int
    events: int
    first_event_id: int
    last_event_id: int
    first_created_at: datetime
    outcome: str
    status: int | None
    error_code: str | None
    error: str | None
    duration_ms: int
    vercel_id: str | None
    decision: str
    reason: str | None
    next_due_at: datetime | None

    @classmethod
    def of(cls, row: Row[Any]) -> "Attempt":
        """From the row."""
        return cls(**{name: getattr(row, name) for name in cls.__slots__})


def latest_attempts(connection: Connection, most: int, *conditions: ColumnElement[bool]) -> list[Attempt]:
    """The newest `most` that meet the conditions, in the order of time. The conditions must name a resource or an
    installation, so that an index leads to them.
    """
    newest = sa.select(attempt).where(*conditions).order_by(attempt.c.id.desc()).limit(most)
    return [Attempt.of(row) for row in reversed(connection.execute(newest).all())]


def is_of_subject(
    subject_key: str, installation_id: str, resource_id: str | None
) -> tuple[ColumnElement[bool], ColumnElement[bool], ColumnElement[bool]]:
    """The attempts of one subject, by the index of the resources."""
    resource = attempt.c.resource_id.is_(None) if resource_id is None else attempt.c.resource_id == resource_id
    return resource, attempt.c.installation_id == installation_id, attempt.c.subject_key == subject_key
