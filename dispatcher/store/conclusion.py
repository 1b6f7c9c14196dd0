"""conclude: deletes the deliveries whose requests succeeded, logs these requests and resolves the dead letters they supersede.

The log's row is made from the delivery's in the database: only what the database does not know travels. A request whose delivery has
changed since it was planned, or is gone, is logged from what was read then.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import cache
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import ColumnElement, Connection, Executable, FromClause, Insert, Select

from dispatcher.database.dialect import Dialect
from dispatcher.outbox.tables import attempt, dead_letter, delivery
from dispatcher.policy.decision import Action, Resolution
from dispatcher.store.attempt_log import record
from dispatcher.store.records import VERSION, Answer

_FROM_ANSWER = ("at", "attempt", "outcome", "status", "error_code", "error", "duration_ms", "vercel_id")
"""The columns of the log that the answer fills."""
_FROM_DELIVERY = (
    "subject_key",
    "installation_id",
    "type",
    "resource_id",
    "product_id",
    "events",
    "first_event_id",
    "last_event_id",
    "first_created_at",
)
"""Those that the delivery's row fills."""


def conclude(
    connection: Connection, dialect: Dialect, delivered: Sequence[Answer], now: datetime, *, logs: bool
) -> int:
    """Writes these successes, in the caller's transaction, which has locked their installations. Returns the number of dead letters
    superseded.

    A delivery that has changed since its request was planned, or whose request was early, starts over instead.
    """
    if not delivered:
        return 0
    final = [answer for answer in delivered if not answer.delivery.early]
    rows = [_row(answer, now) if logs else answer.delivery.guard for answer in final]
    removed = _remove(connection, dialect, rows, logs=logs)
    _supersede(connection, dialect, removed.dead_letters, now)
    if len(final) < len(delivered) or removed.missed:
        left = [one for one in delivered if one.delivery.early or one.delivery.subject_key in removed.missed]
        start_over(connection, dialect, left, now)
        record(connection, dialect, left if logs else (), now)
    return len(removed.dead_letters)


def _row(answer: Answer, now: datetime) -> dict[str, Any]:
    """Returns what the database does not know of a success to log. A missing value is NULL."""
    delivery, outcome = answer.delivery, answer.outcome
    row = {
        "subject_key": delivery.subject_key,
        "version": delivery.version,
        "at": now - timedelta(seconds=answer.age),
        "attempt": delivery.attempts + 1,  # its row may count more: see `pull_suspects`
        "outcome": outcome.kind,
        "status": outcome.status,
        "duration_ms": round(outcome.duration * 1000),
        "vercel_id": outcome.vercel_id,
    }
    if outcome.error is not None or outcome.error_code is not None:
        row |= {"error": outcome.error, "error_code": outcome.error_code}
    return row


class _Removed(NamedTuple):
    dead_letters: Sequence[int]
    """The unresolved dead letters of the deliveries that were deleted, locked."""
    missed: frozenset[str]
    """The keys of the deliveries that had changed or were gone. Without a log, possibly all keys, because the others are gone by now."""


def _remove(connection: Connection, dialect: Dialect, rows: list[dict[str, Any]], *, logs: bool) -> _Removed:
    """Deletes the deliveries that are unchanged since their requests were planned; with `logs`, moves them to the log."""
    remove = _remove_at_once if dialect.chains_writes else _remove_in_turn
    return remove(connection, dialect, rows, logs=logs)


def _remove_at_once(connection: Connection, dialect: Dialect, rows: list[dict[str, Any]], *, logs: bool) -> _Removed:
    found = connection.execute(_removal(dialect, VERSION, logs=logs), dialect.encode(rows)).one()
    return _Removed(found.dead_letters or (), frozenset(found.missed or ()))


@cache
def _removal(dialect: Dialect, version: tuple[str, ...], *, logs: bool) -> Executable:
    """Returns one statement: a DELETE, and what is done with the deleted rows."""
    rows = sa.select(_rows(dialect, logs=logs)).cte("answered")
    same = (delivery.c[name] == rows.c[name] for name in version)
    given = (rows.c[name] for name in _given(logs=logs))
    unchanged = sa.delete(delivery).where(dialect.is_among(delivery.c.subject_key, rows), *same)
    gone = unchanged.returning(*(delivery.c[name] for name in _FROM_DELIVERY), *given).cte("gone")
    dead_letters = _unresolved(sa.select(gone.c.subject_key)).subquery("dead_letters")
    missed = _missing(rows, gone, rows.c.subject_key == gone.c.subject_key).subquery("missed")
    found = sa.select(
        sa.select(sa.func.array_agg(dead_letters.c.id)).scalar_subquery().label("dead_letters"),
        sa.select(sa.func.array_agg(missed.c.subject_key)).scalar_subquery().label("missed"),
    )
    return found.add_cte(_log(gone).cte("logged")) if logs else found


def _remove_in_turn(connection: Connection, dialect: Dialect, rows: list[dict[str, Any]], *, logs: bool) -> _Removed:
    steps, parameters = _steps(dialect, VERSION, logs=logs), dialect.encode(rows)
    dead_letters = connection.execute(steps.dead_letters, parameters).scalars().all()
    missed = [row["subject_key"] for row in rows]
    if steps.log is not None:
        any_changed = connection.execute(steps.log, parameters).rowcount < len(rows)
        missed = list(connection.execute(steps.missed, parameters).scalars()) if any_changed else []
    any_changed = connection.execute(steps.delete, parameters).rowcount < len(rows)
    return _Removed(dead_letters, frozenset(missed if any_changed else ()))


class _Steps(NamedTuple):
    """The statements in their order. Each finds the rows by itself."""

    dead_letters: Executable
    log: Executable | None
    missed: Executable
    delete: Executable


@cache
def _steps(dialect: Dialect, version: tuple[str, ...], *, logs: bool) -> _Steps:
    rows = _rows(dialect, logs=logs)
    same = sa.and_(*(delivery.c[name] == rows.c[name] for name in version))
    both = rows.join(delivery, same)
    given = (rows.c[name] for name in _given(logs=logs))
    unchanged = (
        sa.select(*(delivery.c[name] for name in _FROM_DELIVERY), *given)
        .select_from(both)
        .prefix_with("STRAIGHT_JOIN", dialect="mysql")
        .with_hint(delivery, "FORCE INDEX (PRIMARY)", "mysql")
    )
    return _Steps(
        _unresolved(sa.select(delivery.c.subject_key).select_from(both)),
        _log(unchanged.subquery("unchanged")) if logs else None,
        _missing(rows, delivery, same),
        dialect.delete(delivery, [delivery.c[name] for name in version]),
    )


def _rows(dialect: Dialect, *, logs: bool) -> FromClause:
    return dialect.rows(*(delivery.c[name] for name in VERSION), *(attempt.c[name] for name in _given(logs=logs)))


def _given(*, logs: bool) -> tuple[str, ...]:
    return _FROM_ANSWER if logs else ()


def _log(concluded: FromClause) -> Insert:
    """Logs them in the order of their answers."""
    names = [*_FROM_DELIVERY, *_FROM_ANSWER, "decision"]
    values = (concluded.c[name] for name in (*_FROM_DELIVERY, *_FROM_ANSWER))
    rows = sa.select(*values, sa.literal_column(f"'{Action.DELIVERED}'")).order_by(concluded.c.at)
    return sa.insert(attempt).from_select(names, rows)


def _missing(rows: FromClause, table: FromClause, same: ColumnElement[bool]) -> Select[Any]:
    """Returns a SELECT of the keys of the rows that have no match in the table."""
    return sa.select(rows.c.subject_key).select_from(rows.outerjoin(table, same)).where(table.c.subject_key.is_(None))


def _unresolved(keys: Select[Any]) -> Select[Any]:
    return (
        sa.select(dead_letter.c.id)
        .where(dead_letter.c.subject_key.in_(keys), dead_letter.c.resolved_at.is_(None))
        .order_by(dead_letter.c.id)
        .with_for_update(of=dead_letter)  # an operator may be resolving the same dead letter
    )


def _supersede(connection: Connection, dialect: Dialect, dead_letters: Sequence[int], now: datetime) -> None:
    """Resolves these dead letters: Vercel has now read their subjects.

    Only those of a delivery that is unchanged since its request was planned. Otherwise the dead letter may hold an event that was committed
    later, for example after a purge.
    """
    if dead_letters:
        resolved = [{"id": id_, "resolved_at": now, "resolution": Resolution.SUPERSEDED} for id_ in dead_letters]
        dialect.defer(connection, _resolve(dialect), dialect.encode(resolved))


@cache
def _resolve(dialect: Dialect) -> Executable:
    return dialect.update(dead_letter, [dead_letter.c.id], [dead_letter.c.resolved_at, dead_letter.c.resolution])


def start_over(connection: Connection, dialect: Dialect, concluded: Sequence[Answer], now: datetime) -> None:
    """Resets the deliveries that are still there although their request concluded: more events were collected while it was in flight,
    or the request was early. Such a delivery starts over without attempts and is due when its newest event is visible.
    """
    clean = {"attempts": 0, "gone": 0, "last_status": None, "last_error": None}
    rows = [
        {"subject_key": answer.delivery.subject_key, "first_created_at": answer.began_at(now), **clean}
        for answer in concluded
    ]
    dialect.defer(connection, _reset(dialect), dialect.encode(rows))


@cache
def _reset(dialect: Dialect) -> Executable:
    names = ("first_created_at", "attempts", "gone", "last_status", "last_error")
    changed = [delivery.c[name] for name in names]
    return dialect.update(delivery, [delivery.c.subject_key], changed, [(delivery.c.due_at, delivery.c.visible_at)])
