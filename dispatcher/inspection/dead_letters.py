"""Dead letters, as operators see them: list, show, replay, discard. What changes them does so in short transactions, a chunk each."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache, partial
from typing import Any

import sqlalchemy as sa
from sqlalchemy import ColumnElement, Connection, Executable, Row, Select

from dispatcher.database.dialect import Dialect
from dispatcher.database.transactions import Database
from dispatcher.outbox.columns import is_exactly
from dispatcher.outbox.tables import attempt, dead_letter, delivery, outbox
from dispatcher.policy.decision import DeadLetterReason, Resolution
from dispatcher.policy.rate_window import RateLimit
from dispatcher.store.attempts_read import Attempt, is_of_subject, latest_attempts

CHUNK = 500
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

Progress = Callable[[int], None]


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
class Filter:
    """Which dead letters: those that meet every condition that is given. `since`: died then or later."""

    ids: Sequence[int] = ()
    installation_id: str | None = None
    resource_id: str | None = None
    reason: DeadLetterReason | None = None
    since: datetime | None = None

    @property
    def conditions(self) -> list[ColumnElement[bool]]:
        """The same in SQL."""
        columns = dead_letter.c
        found: list[ColumnElement[bool]] = []
        if self.ids:
            found.append(columns.id.in_(self.ids))
        if self.installation_id is not None:
            found.append(is_exactly(columns.installation_id, self.installation_id))
        if self.resource_id is not None:
            found.append(is_exactly(columns.resource_id, self.resource_id))
        if self.reason is not None:
            found.append(columns.reason == self.reason)
        if self.since is not None:
            found.append(columns.died_at >= self.since)
        return found


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


@dataclass(frozen=True, slots=True)
class Signature:
    """Who resolves a dead letter, and why."""

    by: str
    note: str | None = None


def list_dead_letters(database: Database, wanted: Filter, most: int, *, resolved: bool = False) -> list[DeadLetter]:
    """The newest `most`, newest first; those that are resolved only if asked for."""
    conditions = wanted.conditions if resolved else [_is_unresolved(), *wanted.conditions]
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
        .where(_is_unresolved(), *wanted.conditions)
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


def replay(database: Database, wanted: Filter, until: int, signature: Signature, progress: Progress) -> int:
    """Publishes their subjects again and resolves them, up to the id `until`; returns how many. Malformed ones stay.

    Any number of these at once replay a dead letter once. `progress` is told how many are done so far.
    """
    chunk = partial(_replay, wanted=wanted, until=until, signature=signature)
    return _in_chunks(database, chunk, progress)


def discard(database: Database, wanted: Filter, until: int, signature: Signature, progress: Progress) -> int:
    """Resolves them without sending anything; otherwise as `replay`, and malformed ones too."""
    chunk = partial(_discard, wanted=wanted, until=until, signature=signature)
    return _in_chunks(database, chunk, progress)


def _in_chunks(database: Database, chunk: Callable[..., list[int]], progress: Progress) -> int:
    done, after = 0, 0
    while ids := database.transact(partial(chunk, dialect=database.dialect, after=after)):
        done, after = done + len(ids), ids[-1]
        progress(done)
    return done


def _replay(
    connection: Connection, dialect: Dialect, wanted: Filter, after: int, until: int, signature: Signature
) -> list[int]:
    rows = connection.execute(_lock(wanted, after, until).where(dead_letter.c.subject_key.is_not(None))).all()
    events = _events(connection, rows)
    ids = _resolve(connection, dialect, rows, Resolution.REPLAYED, signature)
    if rows:
        connection.execute(_publish(dialect), dialect.encode(events))
    return ids


@cache
def _publish(dialect: Dialect) -> Executable:
    rows = dialect.rows(*(outbox.c[name] for name in _EVENT))
    return sa.insert(outbox).from_select(_EVENT, sa.select(rows))


_CARRIED = ("product_id", "billing_plan_id")
_EVENT = ("installation_id", "type", "resource_id", *_CARRIED)


def _discard(
    connection: Connection, dialect: Dialect, wanted: Filter, after: int, until: int, signature: Signature
) -> list[int]:
    rows = connection.execute(_lock(wanted, after, until)).all()
    return _resolve(connection, dialect, rows, Resolution.DISCARDED, signature)


def _lock(wanted: Filter, after: int, until: int) -> Select[Any]:
    """The next chunk. Who waits for a row finds it resolved once it is his, and leaves it."""
    key = dead_letter.c.id
    unresolved = (_is_unresolved(), key > after, key <= until, *wanted.conditions)
    return sa.select(dead_letter).where(*unresolved).order_by(key).limit(CHUNK).with_for_update()


def _is_unresolved() -> ColumnElement[bool]:
    return dead_letter.c.resolved_at.is_(None)


def _events(connection: Connection, rows: Sequence[Row[Any]]) -> list[dict[str, str | None]]:
    """What is to be announced again, without the values that newer ones have overtaken: an old one must not come last."""
    overtaken = {name: _overtaken(connection, rows, name) for name in _CARRIED}
    return [
        {name: None if row.id in overtaken.get(name, ()) else getattr(row, name) for name in _EVENT} for row in rows
    ]


def _overtaken(connection: Connection, rows: Sequence[Row[Any]], name: str) -> set[int]:
    """Those whose value in this column a newer one has overtaken that still waits, or died too."""
    carrying = [row for row in rows if getattr(row, name) is not None]
    if not carrying:
        return set()
    waiting = _waiting(connection, carrying, name)
    columns, keys = dead_letter.c, {row.subject_key for row in carrying}
    last = (
        sa.select(columns.subject_key, sa.func.max(columns.last_event_id))
        .where(columns.subject_key.in_(keys), _is_unresolved(), columns[name].is_not(None))
        .group_by(columns.subject_key)
    )
    newest: dict[str, int] = dict(connection.execute(last).all())
    return {
        row.id
        for row in carrying
        if (row.installation_id, row.resource_id) in waiting or row.last_event_id < newest[row.subject_key]
    }


def _waiting(connection: Connection, rows: Sequence[Row[Any]], name: str) -> set[tuple[str, str | None]]:
    """The installations and resources of these rows for which an event with a value in this column waits."""
    ids, resources = {row.installation_id for row in rows}, {row.resource_id for row in rows} - {None}
    found: set[tuple[str, str | None]] = set()
    for table in (outbox, delivery):  # in the order of an event's way
        columns = table.c
        same_resource = sa.or_(columns.resource_id.is_(None), columns.resource_id.in_(resources))
        carrying = (columns.installation_id.in_(ids), same_resource, columns[name].is_not(None))
        found |= {
            (row[0], row[1])
            for row in connection.execute(sa.select(columns.installation_id, columns.resource_id).where(*carrying))
        }
    return found


def _resolve(
    connection: Connection, dialect: Dialect, rows: Sequence[Row[Any]], resolution: Resolution, signature: Signature
) -> list[int]:
    if not rows:
        return []
    now = connection.execute(sa.select(dialect.clock())).scalar_one()
    columns = dead_letter.c
    told = {"resolved_at": now, "resolution": resolution, "resolved_by": signature.by, "note": signature.note}
    update = dialect.update(dead_letter, [columns.id], [columns[name] for name in told])
    connection.execute(update, dialect.encode([{"id": row.id, **told} for row in rows]))
    return [row.id for row in rows]


def _pace(requests: int, limit: RateLimit | None) -> float:
    """Seconds from the first request to the last."""
    return 0.0 if limit is None else max(0, requests - 1) // limit.requests * limit.seconds
