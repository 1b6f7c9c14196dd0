"""A crisis: the token source is broken, so that every installation is paused; the dead letters and the log of attempts are long, and
their newest requests came 2,000 a second.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy import ColumnElement

from dispatcher.database.transactions import Database
from dispatcher.outbox.events import RESOURCE_UPDATED
from dispatcher.outbox.tables import attempt, dead_letter, delivery, installation, outbox
from dispatcher.policy.decision import DeadLetterReason, PauseReason, Resolution
from dispatcher.policy.outcome import OutcomeKind
from dispatcher.store.installations import FOREVER
from tests.contract.crowd import KEYS, analyze, fill, insert, n, named, unlimited, without_indexes

LOG_DAYS = 7
"""The log of attempts and the dead letters go back this far."""
BURST_SECONDS = 600
"""Before the end of the log, in which the last `Sizes.burst` requests were made."""
OF_UNRESOLVED = 10
"""One dead letter of this many is unresolved; they lie among the others."""
CAUSES = (
    (DeadLetterReason.REJECTED, 400, "billing plan plan_"),
    (DeadLetterReason.REJECTED, 422, "unknown product prod_"),
    (DeadLetterReason.UNAUTHORIZED, 401, "the token has been revoked"),
    (DeadLetterReason.GONE, 404, "resource not found"),
    (DeadLetterReason.EXHAUSTED, 502, "<html><head><title>502 Bad Gateway</title></head><body>nginx</body></html>"),
)
"""The causes of the dead letters in turn: the reason, the last status and, with a number after it, the last error."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """The numbers of rows. All but `attempts` and `burst` are powers of ten; `attempts` is a multiple of one with as many digits."""

    deliveries: int
    """Half of them belong to one installation, `icfg_0`; the others are spread evenly."""
    installations: int
    dead_letters: int
    attempts: int
    burst: int
    """Those of the attempts that were made in the last `BURST_SECONDS`."""
    events: int


CRISIS = Sizes(10**6, 10**5, 10**6, 5 * 10**6, 1_200_000, 10**5)
"""Those that the console is accepted with."""
SMALL = Sizes(10**3, 10**2, 10**3, 2 * 10**3, 1_200, 10**2)


def strike(database: Database, sizes: Sizes) -> None:
    """Fills the tables, and updates the planner's statistics."""
    key: ColumnElement[str] = sa.literal_column(KEYS[database.dialect.name], sa.String)
    with unlimited(database) as connection:
        began = connection.execute(sa.select(database.dialect.clock())).scalar_one()
        fill(connection, installation, sizes.installations, _installation(database, began))
        fill(connection, delivery, sizes.deliveries, _delivery(sizes, began, key))
        fill(connection, dead_letter, sizes.dead_letters, _dead_letter(database, sizes, began, key))
        fill(connection, outbox, sizes.events, _event(sizes))
        now = connection.execute(sa.select(database.dialect.clock())).scalar_one()
        chunk = 10 ** (len(str(sizes.attempts)) - 1)
        with without_indexes(connection, attempt):
            for first in range(0, sizes.attempts, chunk):
                insert(connection, attempt, chunk, _attempt(database, sizes, now, key), first)
    analyze(database)


def _installation(database: Database, now: datetime) -> Mapping[str, Any]:
    by_hand = n % 20 == 0
    since = _later(database, now - timedelta(days=1), n * 0.25)
    probe = _later(database, now, n * 0.03)
    return {
        "installation_id": named("icfg_", n),
        "due_at": sa.case((by_hand, _time(FOREVER)), else_=probe),
        "paused_until": sa.case((by_hand, _time(FOREVER)), else_=probe),
        "paused_since": since,
        "pause_reason": sa.case((by_hand, PauseReason.OPERATOR.value), else_=PauseReason.UNAUTHORIZED.value),
        "failures": sa.case((by_hand, 0), else_=1 + n % 50),
        "last_delivered_at": since,
    }


def _delivery(sizes: Sizes, now: datetime, key: ColumnElement[str]) -> Mapping[str, Any]:
    of_one = sizes.deliveries // 2
    owner = sa.case((n < of_one, 0), else_=(n - of_one) // ((sizes.deliveries - of_one) // sizes.installations))
    then = _time(now - timedelta(minutes=1))
    others = {"version": sa.literal("v" * 36), "visible_at": then, "due_at": then, "attempts": sa.literal(1)}
    return {**_subject(key, owner, n), "first_created_at": then, **others}


def _dead_letter(database: Database, sizes: Sizes, now: datetime, key: ColumnElement[str]) -> Mapping[str, Any]:
    died_at = _later(database, now - timedelta(days=LOG_DAYS), n * (LOG_DAYS * 86_400 / sizes.dead_letters))
    is_resolved = n % OF_UNRESOLVED != 0
    turn = n // OF_UNRESOLVED % len(CAUSES)
    reasons, statuses, errors = zip(*CAUSES, strict=True)
    return {
        **_subject(key, n // OF_UNRESOLVED % sizes.installations, n),
        "died_at": died_at,
        "reason": _in_turn(turn, reasons),
        "first_created_at": died_at,
        "attempts": sa.literal(20),
        "last_status": _in_turn(turn, statuses),
        "last_error": _in_turn(turn, errors).concat(sa.cast(n, sa.String(16))),
        "resolved_at": sa.case((is_resolved, died_at)),
        "resolution": sa.case(
            (is_resolved & (n % 3 == 0), Resolution.REPLAYED.value), (is_resolved, Resolution.SUPERSEDED.value)
        ),
        "resolved_by": sa.case((is_resolved & (n % 3 == 0), "anna@shop")),
    }


def _attempt(database: Database, sizes: Sizes, now: datetime, key: ColumnElement[str]) -> Mapping[str, Any]:
    earlier, burst = sizes.attempts - sizes.burst, timedelta(seconds=BURST_SECONDS)
    slowly = _later(database, now - timedelta(days=LOG_DAYS), n * ((LOG_DAYS * 86_400 - BURST_SECONDS) / earlier))
    at = sa.case(
        (n < earlier, slowly), else_=_later(database, now - burst, (n - earlier) * (BURST_SECONDS / sizes.burst))
    )
    outcomes = (OutcomeKind.DELIVERED, OutcomeKind.DELIVERED, OutcomeKind.FAILED, OutcomeKind.UNAUTHORIZED)
    return {
        **_subject(key, n % sizes.installations, n % sizes.deliveries),
        "at": at,
        "first_created_at": at,
        "attempt": sa.literal(1),
        "outcome": _in_turn(n % 4, [outcome.value for outcome in outcomes]),
        "status": _in_turn(n % 4, (200, 200, 502, 401)),
        "error": _in_turn(n % 4, (None, None, "Bad Gateway", "the token has been revoked")),
        "duration_ms": 5 + n % 90,
        "decision": _in_turn(n % 4, ("delivered", "delivered", "retry", "pause")),
    }


def _event(sizes: Sizes) -> Mapping[str, Any]:
    return {
        "installation_id": named("icfg_", n % sizes.installations),
        "type": sa.literal(RESOURCE_UPDATED),
        "resource_id": named("new_", n),
    }


def _subject(key: ColumnElement[str], owner: ColumnElement[int], resource: ColumnElement[int]) -> dict[str, Any]:
    return {
        "subject_key": key,
        "installation_id": named("icfg_", owner),
        "type": sa.literal(RESOURCE_UPDATED),
        "resource_id": named("db_", resource),
        "events": sa.literal(1),
        "first_event_id": n,
        "last_event_id": n,
    }


def _in_turn(turn: ColumnElement[int], values: Any) -> ColumnElement[Any]:
    return sa.case(*((turn == number, value) for number, value in enumerate(values)))


def _time(value: datetime) -> ColumnElement[datetime]:
    return sa.literal(value, installation.c.due_at.type)


_LATER = {
    "postgresql": "CAST({at} AS timestamptz) + ({seconds}) * interval '1 second'",
    "mysql": "timestampadd(MICROSECOND, 1000000 * ({seconds}), {at})",
    "sqlite": "strftime('%Y-%m-%d %H:%M:%f000', {at}, ({seconds}) || ' seconds')",
}


def _later(database: Database, at: datetime, seconds: ColumnElement[Any]) -> ColumnElement[datetime]:
    """Returns the time this many seconds after `at`."""
    text = seconds.compile(compile_kwargs={"literal_binds": True})
    written = f"'{at:%Y-%m-%d %H:%M:%S}{'+00' if database.dialect.name == 'postgresql' else ''}'"
    return sa.literal_column(_LATER[database.dialect.name].format(at=written, seconds=text), installation.c.due_at.type)
