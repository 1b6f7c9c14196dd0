"""Checks what the recorded attempts say: whether installations are paused because their token was refused or missing."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy import Connection

from dispatcher.database.transactions import Database
from dispatcher.inspection.checks.finding import Finding, problem, summarize, warning
from dispatcher.outbox.tables import attempt, installation
from dispatcher.policy.decision import PauseReason
from dispatcher.policy.outcome import OutcomeKind

MAX_SCANNED_ROWS = 5_000
"""At most this many rows are read for each figure."""
MAX_NAMED_INSTALLATIONS = 3
MAX_UNRELATED_INSTALLATIONS = 2
"""If at most this many are refused while others have nothing to send, their customers may have uninstalled them."""
_VERBS = {
    PauseReason.UNAUTHORIZED: ("is refused by Vercel", "are refused by Vercel"),
    PauseReason.NO_CREDENTIAL: ("has no token", "have no token"),
}


@dataclass(frozen=True, slots=True)
class _Pauses:
    """The installations that are paused for one reason, in the order of their pauses."""

    reason: PauseReason
    since: Sequence[tuple[str, datetime]]
    unbroken: Sequence[tuple[str, datetime]]
    """Those for which, and for all others, nothing has been delivered since their pause began."""
    are_all: bool
    """Whether no other installation is known."""
    last_answer: str
    """The result of the last attempt for the newest of them, in parentheses, after a space; empty if it is not recorded."""


def check_attempts(database: Database) -> Iterator[Finding]:
    """Reports installations whose token is refused or missing: a problem if nothing has been delivered since, else a warning."""
    with database.read() as connection:
        last_delivery, known = _last_delivery(connection), _count_known(connection)
        for reason in _VERBS:
            since = _paused(connection, reason)
            if since:
                unbroken = [one for one in since if last_delivery is None or one[1] > last_delivery]
                answer = _last_answer(connection, since[-1][0])
                yield _judge(_Pauses(reason, since, unbroken, len(since) == known, answer))


def _judge(pauses: _Pauses) -> Finding:
    stopped = pauses.unbroken
    if stopped and (len(stopped) > MAX_UNRELATED_INSTALLATIONS or pauses.are_all):
        count = _count(stopped)
        return problem(
            "attempts",
            f"{count} of {count} installations that were tried since {_time(stopped[0][1])}"
            f" {_verb(pauses.reason, stopped)}{pauses.last_answer}: check the source of the tokens;"
            " `dispatcher check --live` asks Vercel with those that it provides now. A pause ends with the next probe that succeeds, or by"
            f" `dispatcher installations resume --reason {pauses.reason}`",
        )
    named = ", ".join(f"{one} since {_time(since)}" for one, since in pauses.since[:MAX_NAMED_INSTALLATIONS])
    more = ", …" if len(pauses.since) > MAX_NAMED_INSTALLATIONS else ""
    noun = "installation" if len(pauses.since) == 1 else "installations"
    return warning(
        "attempts",
        f"{_count(pauses.since)} {noun} {_verb(pauses.reason, pauses.since)}: {named}{more}{pauses.last_answer}. Store working"
        " tokens, and purge what was uninstalled; `dispatcher installations list --paused` lists them",
    )


def _verb(reason: PauseReason, rows: Sequence[object]) -> str:
    return _VERBS[reason][len(rows) != 1]


def _paused(connection: Connection, reason: PauseReason) -> Sequence[tuple[str, datetime]]:
    columns = (installation.c.installation_id, installation.c.paused_since)
    # A literal: a plan for any value of a parameter would read the whole table.
    same = installation.c.pause_reason == sa.literal(reason.value, literal_execute=True)
    rows = connection.execute(sa.select(*columns).where(same).limit(MAX_SCANNED_ROWS))
    return sorted(((row[0], row[1]) for row in rows), key=lambda row: (row[1], row[0]))


def _last_delivery(connection: Connection) -> datetime | None:
    """Returns the latest of some installations' and of the newest attempts: there may be many installations, or no log of successes."""
    some = sa.select(installation.c.last_delivered_at).limit(MAX_SCANNED_ROWS).subquery()
    newest = sa.select(attempt.c.at, attempt.c.outcome).order_by(attempt.c.at.desc()).limit(MAX_SCANNED_ROWS).subquery()
    delivered = sa.select(sa.func.max(newest.c.at)).where(newest.c.outcome == OutcomeKind.DELIVERED)
    times = [connection.execute(one).scalar() for one in (sa.select(sa.func.max(some.c.last_delivered_at)), delivered)]
    return max((time for time in times if time is not None), default=None)


def _count_known(connection: Connection) -> int:
    known = sa.select(installation.c.installation_id).limit(MAX_SCANNED_ROWS).subquery()
    return int(connection.execute(sa.select(sa.func.count()).select_from(known)).scalar_one())


def _last_answer(connection: Connection, installation_id: str) -> str:
    columns = (attempt.c.status, attempt.c.error, attempt.c.vercel_id)
    of_it = sa.select(*columns).where(attempt.c.installation_id == installation_id)
    row = connection.execute(of_it.order_by(attempt.c.id.desc()).limit(1)).first()
    return "" if row is None else summarize(*row)


def _count(rows: Sequence[object]) -> str:
    return f"at least {len(rows):,}" if len(rows) == MAX_SCANNED_ROWS else f"{len(rows):,}"


def _time(time: datetime) -> str:
    return f"{time:%Y-%m-%d %H:%M} UTC"
