"""record: the log of attempts, one row a request."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import cache

import sqlalchemy as sa
from sqlalchemy import Connection, Executable

from dispatcher.database.dialect import Dialect
from dispatcher.outbox.tables import attempt
from dispatcher.policy.decision import Action
from dispatcher.store.records import Answer


def record(connection: Connection, dialect: Dialect, answers: Sequence[Answer], now: datetime) -> None:
    """Appends one row for each answer, in the caller's transaction."""
    if answers:
        connection.execute(_insert(dialect), dialect.encode([_row(answer, now) for answer in answers]))


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
        "next_due_at": answer.due_after(now) if answer.decision.action in _COMES_AGAIN else None,
    }


_COMES_AGAIN = {Action.RETRY, Action.THROTTLE, Action.PAUSE}


@cache
def _insert(dialect: Dialect) -> Executable:
    columns = [column for column in attempt.c if column.name != "id"]
    rows = dialect.rows(*columns)
    return sa.insert(attempt).from_select([column.name for column in columns], sa.select(rows))
