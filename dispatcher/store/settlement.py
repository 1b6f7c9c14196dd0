"""settle: writes the effect of the answers on their deliveries and installations, in one transaction.

Three guards make it safe. The token: nothing is written under a lease that is no longer ours. The version: a delivery is deleted only if
no event was collected since its request started. The lock: whether an installation is still due is read in a separate statement, after
its row has been locked. With a settle delay, a request that began before its newest event was visible everywhere (`early`) is followed
by another.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from functools import cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, Executable, Row

from dispatcher.database.dialect import Dialect
from dispatcher.database.transactions import Database
from dispatcher.outbox.tables import delivery, installation
from dispatcher.policy.decision import Action, DeadLetterReason, PauseReason
from dispatcher.store.attempt_log import record
from dispatcher.store.burial import Burial, bury
from dispatcher.store.conclusion import conclude, start_over
from dispatcher.store.leases import lock_ours
from dispatcher.store.records import Answer, InstallationState, Settled

Rows = Mapping[str, Row[Any]]
# REFRESH is missing because another answer for the same delivery follows it.
_PUT_OFF = {Action.RETRY, Action.THROTTLE, Action.PAUSE, Action.BURY}


def settle(
    database: Database,
    answers: Sequence[Answer],
    states: Sequence[InstallationState],
    lease: timedelta,
    *,
    failures_only: bool = False,
) -> Settled:
    """Writes the results of the answers to their deliveries, and the states of the installations; renews or gives back their leases.

    `states` must cover every installation of the answers. With `failures_only`, requests that succeeded are not logged as attempts.
    """

    def step(connection: Connection, skip_locked: bool) -> Settled:
        dialect = database.dialect
        ours, locked = _lock(connection, dialect, states, skip_locked=skip_locked)
        lost = frozenset(state.installation_id for state in states) - ours.keys() - locked
        if not ours:
            return Settled(lost, locked=locked)
        now = next(iter(ours.values())).now
        valid = [answer for answer in answers if answer.delivery.subject.installation_id in ours]
        delivered = [answer for answer in valid if answer.decision.action is Action.DELIVERED]
        others = [answer for answer in valid if answer.decision.action is not Action.DELIVERED]
        _put_off(connection, dialect, [answer for answer in others if answer.decision.action in _PUT_OFF], now)
        buried = _bury(connection, dialect, [answer for answer in others if answer.decision.action is Action.BURY], now)
        # Before the deliveries: an answer that was only refused for its token comes before the success of the same delivery.
        record(connection, dialect, others, now)
        superseded = conclude(connection, dialect, delivered, now, logs=not failures_only)
        kept = [state for state in states if state.installation_id in ours]
        _write_states(connection, dialect, kept, ours, valid, lease)
        paused = frozenset(id_ for id_, row in ours.items() if row.pause_reason == PauseReason.OPERATOR)
        return Settled(lost, buried, superseded, paused, locked)

    return database.transact_around_locks(step)


def _lock(
    connection: Connection, dialect: Dialect, states: Sequence[InstallationState], *, skip_locked: bool
) -> tuple[Rows, frozenset[str]]:
    leases = {state.installation_id: state.token for state in states}
    ours, locked = lock_ours(connection, dialect, leases, skip_locked=skip_locked)
    return {row.installation_id: row for row in ours}, locked


def _put_off(connection: Connection, dialect: Dialect, failed: Sequence[Answer], now: datetime) -> None:
    rows = [
        {
            "subject_key": answer.delivery.subject_key,
            "first_event_id": answer.delivery.first_event_id,
            "attempts": answer.attempts_after,
            "gone": answer.gone_after,
            "due_at": answer.due_after(now),
            "last_status": answer.outcome.status,
            "last_error": answer.outcome.error,
        }
        for answer in failed
    ]
    if rows:
        dialect.defer(connection, _update(dialect), dialect.encode(rows))


@cache
def _update(dialect: Dialect) -> Executable:
    names = ("attempts", "gone", "due_at", "last_status", "last_error")
    # Not by version: a failure also puts off the events that were collected during the request. By the first event's id, because events
    # that came after a purge are not put off.
    on = [delivery.c.subject_key, delivery.c.first_event_id]
    return dialect.update(delivery, on, [delivery.c[name] for name in names])


def _bury(connection: Connection, dialect: Dialect, dead: Sequence[Answer], now: datetime) -> int:
    burials = [
        Burial(
            answer.delivery, answer.decision.reason, answer.attempts_after, answer.outcome.status, answer.outcome.error
        )
        for answer in dead
        if isinstance(answer.decision.reason, DeadLetterReason)
    ]
    buried = bury(connection, dialect, burials, now)
    if buried < len(burials):
        start_over(connection, dialect, dead, now)
    return buried


def _write_states(
    connection: Connection,
    dialect: Dialect,
    states: Sequence[InstallationState],
    ours: Rows,
    answers: Sequence[Answer],
    lease: timedelta,
) -> None:
    released = [state.installation_id for state in states if state.release]
    first_due = read_first_due(connection, dialect, released)
    of_each: dict[str, list[Answer]] = {}
    for answer in answers:
        of_each.setdefault(answer.delivery.subject.installation_id, []).append(answer)
    succeeded = {a.delivery.subject.installation_id for a in answers if a.decision.action is Action.DELIVERED}
    rows: list[dict[str, Any]] = []
    for state in states:
        id_, row = state.installation_id, ours[state.installation_id]
        if state.as_written and _goes_on(row):
            continue
        fields = _fields(state, row, of_each.get(id_, []), first_due.get(id_))
        until = None if state.release else row.now + lease
        delivered_at = row.now if id_ in succeeded else row.last_delivered_at
        rows.append({"installation_id": id_, **fields, "leased_until": until, "last_delivered_at": delivered_at})
    if rows:
        dialect.defer(connection, _write(dialect), dialect.encode(rows))


def _fields(
    state: InstallationState, row: Row[Any], answers: Sequence[Answer], first_due: datetime | None
) -> dict[str, Any]:
    """Returns the values to write to the installation's row, except the end of the lease and the time of the last delivery."""
    now = row.now
    reason, paused_until, paused_since = _pause(row, answers)
    throttled_until = now + timedelta(seconds=state.throttled_for) if state.throttled_for else None
    # If a kept lease expires, the next holder must respect the present pause and rate limit, but not those of an earlier settlement: the
    # row's due_at may stem from a pause that is over, so it is capped at now. Otherwise it stays the same, so that the index on it need
    # not change. A lease that is given back queues behind installations that have waited longer.
    first, earliest = (first_due, now) if state.release else (min(row.due_at or now, now), None)
    return {
        "due_at": _next_look(first, earliest, paused_until, throttled_until),
        "lease_token": None if state.release else row.lease_token,
        "leased_by": None if state.release else row.leased_by,
        "paused_until": paused_until,
        "pause_reason": reason,
        "paused_since": paused_since,
        "throttled_until": throttled_until,
        "rate_window": state.rate_window,
        "failures": state.failures,
        "faults": state.faults,
        "suspects": state.suspects,
    }


def _goes_on(row: Row[Any]) -> bool:
    """Whether the installation is not paused and can be claimed at once if its lease expires."""
    return row.pause_reason is None and row.due_at is not None and row.due_at <= row.now


# Not `collections`: writing it would hide a concurrent collection on another node of a cluster. Nor what only operators write.
_STATE = (
    "due_at",
    "lease_token",
    "leased_until",
    "leased_by",
    "paused_until",
    "pause_reason",
    "paused_since",
    "throttled_until",
    "rate_window",
    "failures",
    "faults",
    "suspects",
    "last_delivered_at",
)


@cache
def _write(dialect: Dialect) -> Executable:
    return dialect.update(installation, [installation.c.installation_id], [installation.c[name] for name in _STATE])


def _pause(row: Row[Any], answers: Sequence[Answer]) -> tuple[str | None, datetime | None, datetime | None]:
    """Returns the reason, end and start of the pause after these answers. Only an operator ends an operator's pause."""
    reason, until, since = row.pause_reason, row.paused_until, row.paused_since
    if reason == PauseReason.OPERATOR:
        return reason, until, since
    for answer in answers:
        match answer.decision.action:
            case Action.DELIVERED:
                reason = until = since = None
            case Action.PAUSE:
                since = since if reason == answer.decision.reason else row.now
                reason, until = answer.decision.reason, row.now + timedelta(seconds=answer.decision.delay)
            case _:
                pass  # does not affect the pause
    return reason, until, since


def _next_look(first: datetime | None, *others: datetime | None) -> datetime | None:
    """Returns when to look at the installation again, which is the latest of these times; None if nothing is waiting."""
    return None if first is None else max(filter(None, (first, *others)))


def read_first_due(connection: Connection, dialect: Dialect, ids: Sequence[str]) -> dict[str, datetime | None]:
    """Returns when the first delivery of each of these installations is due; None where nothing waits."""
    if not ids:
        return {}
    rows = connection.execute(_first_due(dialect), dialect.encode([{"installation_id": id_} for id_ in ids]))
    return {row.installation_id: row.first_due for row in rows}


@cache
def _first_due(dialect: Dialect) -> Executable:
    rows = dialect.rows(installation.c.installation_id)
    first = (
        sa.select(delivery.c.due_at)
        .where(delivery.c.installation_id == rows.c.installation_id)
        .order_by(delivery.c.due_at)
        .limit(1)
        .scalar_subquery()
    )
    return sa.select(rows.c.installation_id, first.label("first_due"))
