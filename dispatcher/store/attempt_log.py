"""The log of attempts: one row per request, written in the settlement's transaction."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy import ColumnElement, Connection, Executable, Row

from dispatcher.database.dialect import Dialect
from dispatcher.outbox.tables import attempt
from dispatcher.policy.decision import Action
from dispatcher.store.records import Answer


def record(connection: Connection, dialect: Dialect, answers: Sequence[Answer], now: datetime) -> None:
    """Appends one row per answer, in the caller's transaction."""
    if answers:
        dialect.defer(connection, _insert(dialect), dialect.encode([_row(answer, now) for answer in answers]))


def _row(answer: Answer, now: datetime) -> dict[str, object]:
    delivery, outcome = answer.delivery, answer.outcome
    subject = delivery.subject
    return {
        "at": now - timedelta(seconds=answer.age),
        "subject_key": delivery.subject_key,
        "installation_id": subject.installation_id,
        "type": subject.type,
        "resource_id": subject.resource_id,
        "product_id": delivery.product_id,
        "attempt": delivery.attempts + 1,
        "events": delivery.events,
        "first_event_id": delivery.first_event_id,
        "last_event_id": delivery.last_event_id,
        "first_created_at": delivery.first_created_at,
        "outcome": outcome.kind,
        "status": outcome.status,
        "error_code": outcome.error_code,
        "error": outcome.error,
        "duration_ms": round(outcome.duration * 1000),
        "vercel_id": outcome.vercel_id,
        "decision": answer.decision.action,
        "reason": answer.decision.reason,
        "next_due_at": answer.due_after(now) if answer.decision.action in _SENT_AGAIN else None,
    }


_SENT_AGAIN = {Action.RETRY, Action.THROTTLE, Action.PAUSE}


@cache
def _insert(dialect: Dialect) -> Executable:
    columns = [column for column in attempt.c if column.name != "id"]
    rows = dialect.rows(*columns)
    return sa.insert(attempt).from_select([column.name for column in columns], sa.select(rows))


@dataclass(frozen=True, slots=True)
class Attempt:
    """A row of `vercel_attempt`: one request, its outcome and the decision on it."""

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
        return cls(**{name: getattr(row, name) for name in cls.__slots__})


def latest_attempts(connection: Connection, limit: int, *conditions: ColumnElement[bool]) -> list[Attempt]:
    """Returns the newest `limit` attempts that meet the conditions, oldest first.

    The conditions must name a resource or an installation, so that the database can use an index.
    """
    newest = sa.select(attempt).where(*conditions).order_by(attempt.c.id.desc()).limit(limit)
    return [Attempt.of(row) for row in reversed(connection.execute(newest).all())]


def is_of_subject(
    subject_key: str, installation_id: str, resource_id: str | None
) -> tuple[ColumnElement[bool], ColumnElement[bool], ColumnElement[bool]]:
    """Returns the conditions that select one subject's attempts, in a form that uses the index on resources."""
    resource = attempt.c.resource_id.is_(None) if resource_id is None else attempt.c.resource_id == resource_id
    return resource, attempt.c.installation_id == installation_id, attempt.c.subject_key == subject_key
