"""Dead letters as operators see them: the list, one of them with its attempts, and the effect of a replay or discard."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import ColumnElement, Connection, Row

from dispatcher.database.transactions import Database
from dispatcher.inspection.backlog import MAX_COUNTED_ROWS
from dispatcher.outbox.tables import attempt, dead_letter
from dispatcher.policy.decision import DeadLetterReason
from dispatcher.policy.rate_window import RateLimit, seconds_for
from dispatcher.store.attempt_log import Attempt, is_of_subject, latest_attempts
from dispatcher.store.dead_letters import Filter, is_replayable, is_unresolved

MAX_SHOWN_ATTEMPTS = 50
ADVICE: Mapping[DeadLetterReason, str] = {
    DeadLetterReason.REJECTED: "Vercel refused the request and would again: correct the ids that your application writes"
    " (or DISPATCHER_VERCEL_BASE_URL, if the answer was a redirect), then replay.",
    DeadLetterReason.UNAUTHORIZED: "Vercel has not accepted the installation's token for longer than DISPATCHER_AUTH_GRACE:"
    " renew the token, then resume the installation and replay; if it was uninstalled, discard.",
    DeadLetterReason.DISABLED: "The integration has been disabled at Vercel for longer than DISPATCHER_DISABLED_GRACE:"
    " have it enabled again, then resume the installation and replay; if the integration is no longer used, discard.",
    DeadLetterReason.NO_CREDENTIAL: "No token was known for the installation for longer than DISPATCHER_AUTH_GRACE:"
    " store it where the DISPATCHER_… settings look for it, then resume the installation and replay.",
    DeadLetterReason.GONE: "Vercel knows neither the resource nor the installation: if it should, import or link it, then replay;"
    " if it was deleted or uninstalled, discard, or purge the installation.",
    DeadLetterReason.EXHAUSTED: "Every attempt failed, up to DISPATCHER_MAX_ATTEMPTS: read the last error and the attempts,"
    " fix the cause or wait until Vercel has fixed it, then replay.",
    DeadLetterReason.MALFORMED: "The outbox row can never become a request, so it cannot be replayed: fix the code that writes it,"
    " announce the change with `dispatcher publish`, then discard.",
    DeadLetterReason.PURGED: "The installation was removed, or an operator purged it: there is nothing to do; if that was a mistake:"
    " `dispatcher dead-letters replay --reason purged --installation ID`.",
}
"""How an operator resolves a dead letter of each reason."""


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
        return cls(**{name: getattr(row, name) for name in cls.__slots__})


@dataclass(frozen=True, slots=True)
class Plan:
    """The changes that a replay or discard is about to make."""

    dead_letters: int
    """Dead letters that the filter matches."""
    malformed: int
    """Those of them that cannot be replayed."""
    requests: int
    """The requests that the others become: one per subject. A lower bound unless `complete`."""
    busiest: int
    """The largest number of these requests for one installation. A lower bound unless `complete`."""
    last_id: int
    """The newest of the dead letters."""
    complete: bool = True
    """Whether every dead letter was read for the requests; the dead letters themselves are always counted."""

    def seconds(self, rate: RateLimit | None, overall: RateLimit | None) -> float:
        """Returns how long the requests take within these rate limits if nothing else is sent."""
        return max(seconds_for(self.busiest, rate), seconds_for(self.requests, overall))


def list_dead_letters(database: Database, wanted: Filter, limit: int, *, resolved: bool = False) -> list[DeadLetter]:
    """Returns at most `limit` unresolved dead letters, newest first, and after them the resolved ones if `resolved`.

    Pages (`Filter.before`) follow the ids: in them, resolved ones stand among the others.
    """
    states = [is_unresolved()]
    if resolved:
        # Two statements, so that each follows an index.
        states = [sa.true()] if wanted.before is not None else [is_unresolved(), sa.not_(is_unresolved())]
    letters: list[DeadLetter] = []
    with database.read() as connection:
        for state in states:
            newest = sa.select(dead_letter).where(state, *wanted.conditions).order_by(dead_letter.c.id.desc())
            if left := limit - len(letters):
                letters += map(DeadLetter.of, connection.execute(newest.limit(left)))
    return letters


def find_dead_letter(database: Database, id_: int) -> tuple[DeadLetter, list[Attempt]] | None:
    """Returns a dead letter and the newest attempts that led to it, as far as they are still kept; None if it does not exist."""
    with database.read() as connection:
        row = connection.execute(sa.select(dead_letter).where(dead_letter.c.id == id_)).one_or_none()
        if row is None:
            return None
        letter = DeadLetter.of(row)
        return letter, _attempts(connection, letter)


def _attempts(connection: Connection, dead: DeadLetter) -> list[Attempt]:
    if dead.subject_key is None or dead.installation_id is None:
        return []
    led_to_it = (attempt.c.first_event_id <= dead.last_event_id, attempt.c.last_event_id >= dead.first_event_id)
    subject = is_of_subject(dead.subject_key, dead.installation_id, dead.resource_id)
    return latest_attempts(connection, MAX_SHOWN_ATTEMPTS, *subject, *led_to_it)


def plan(
    database: Database,
    wanted: Filter,
    *,
    for_replay: bool = False,
    oldest: int | None = None,
    max_rows: int = MAX_COUNTED_ROWS,
) -> Plan:
    """Counts the dead letters that the filter matches now and that a discard takes, or a replay if `for_replay`. Later ones are left to
    the next one.

    With `oldest`, at most this many are to be taken, and only what has died until then is counted; those that cannot be replayed do not
    use up the number. Reads at most `max_rows` of them for the requests.
    """
    columns = dead_letter.c
    matching = [is_replayable(wanted) if for_replay else is_unresolved(), *wanted.conditions]
    with database.read() as connection:
        if oldest is not None:
            taken = [*matching, columns.subject_key.is_not(None)] if for_replay else matching
            last_id = _last_of(connection, taken, oldest)
            matching += [] if last_id is None else [columns.id <= last_id]
        return _read_plan(connection, matching, max_rows)


def _last_of(connection: Connection, matching: Sequence[ColumnElement[bool]], number: int) -> int | None:
    """Returns the id of the last of the oldest `number` dead letters; None if there are none."""
    oldest = sa.select(dead_letter.c.id).where(*matching).order_by(dead_letter.c.id).limit(number).subquery()
    return connection.execute(sa.select(sa.func.max(oldest.c.id))).scalar()


def _read_plan(connection: Connection, matching: Sequence[ColumnElement[bool]], max_rows: int) -> Plan:
    """Reads each row once, in the order of an index, and groups here: to group in their order, a database would look up all rows again,
    which takes MariaDB many times as long if its memory does not hold the table.
    """
    columns = dead_letter.c
    # A literal: with a parameter, PostgreSQL could take the limit for so low that reading the table up to it is cheaper than an index.
    first = sa.select(columns.id, columns.subject_key, columns.installation_id).where(*matching)
    rows = connection.execute(first.limit(sa.literal_column(str(max_rows + 1)))).all()
    of_subject = {key: installation_id for _, key, installation_id in rows[:max_rows] if key is not None}
    requests, busiest = len(of_subject), max(Counter(of_subject.values()).values(), default=0)
    if len(rows) <= max_rows:
        malformed = sum(key is None for _, key, _ in rows)
        return Plan(len(rows), malformed, requests, busiest, max((id_ for id_, _, _ in rows), default=0))
    figures = (sa.func.count(), sa.func.count(columns.subject_key), sa.func.max(columns.id))
    dead, replayable, last_id = connection.execute(sa.select(*figures).where(*matching)).one()
    return Plan(dead, dead - replayable, requests, busiest, last_id, complete=False)
