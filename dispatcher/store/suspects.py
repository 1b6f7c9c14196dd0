"""pull_suspects: after a crash, deliveries are read one at a time, and each uses up an attempt before it is sent.

So a delivery that ends its worker each time becomes a dead letter, and no other does. The present holder of a lease cannot know which
of those in flight ended the last one. It reads the one that has been due longest, and the next once that has been settled: the answer
puts the attempts right. What was delivered is gone, so sooner or later the deadly one comes first.
"""

from collections.abc import Sequence
from datetime import timedelta
from functools import cache

from sqlalchemy import Connection, Executable

from dispatcher.database.dialect import Dialect
from dispatcher.database.transactions import Database
from dispatcher.outbox.tables import delivery
from dispatcher.policy.decision import DeadLetterReason
from dispatcher.store.burial import Burial, bury
from dispatcher.store.leases import first_due, renew_ours
from dispatcher.store.records import Delivery, Suspects

ERROR = "the dispatcher stopped without an answer each time this was due: see its logs at those times"


def pull_suspects(
    database: Database, leases: dict[str, str], lease: timedelta, *, at_once: int, under_way: int, max_attempts: int
) -> Suspects:
    """Renews the leases (installation → token), and reads of each the delivery that has been due longest; it uses up an attempt.

    Reads at most `at_once`, less the `under_way` that are not settled yet. One that has used up `max_attempts` becomes a dead letter.
    """

    def step(connection: Connection, skip_locked: bool) -> Suspects:
        dialect = database.dialect
        ours, locked = renew_ours(connection, dialect, leases, lease, skip_locked=skip_locked)
        if not ours:
            return Suspects(locked=locked)
        ids, now = [row.installation_id for row in ours], ours[0].now
        found = [one for first in first_due(connection, dialect, ids, 1, now).values() for one in first]
        dead = [one for one in found if one.attempts >= max_attempts]
        suspects = choose([one for one in found if one.attempts < max_attempts], at_once, under_way)
        if suspects:
            counted = [{"subject_key": one.subject_key, "attempts": one.attempts + 1} for one in suspects]
            connection.execute(_write_attempts(dialect), dialect.encode(counted))
        due = frozenset(one.subject.installation_id for one in found)
        burials = [Burial(one, DeadLetterReason.EXHAUSTED, one.attempts, None, ERROR) for one in dead]
        buried = bury(connection, dialect, burials, now)
        return Suspects(frozenset(ids), locked, due, tuple(suspects), buried)

    return database.transact_around_locks(step, durable=False)  # undone, it is as if the lease had expired


def choose(found: Sequence[Delivery], at_once: int, under_way: int) -> list[Delivery]:
    """Returns those that are sent together. With each attempt that one has used up, half as many others may be under way beside it:
    a delivery that ends its worker again and again ends up alone, and uses up nobody else's attempts.
    """
    by_attempts = sorted(found, key=lambda one: one.attempts)
    return [one for place, one in enumerate(by_attempts, under_way) if place < max(1, at_once >> one.attempts)]


@cache
def _write_attempts(dialect: Dialect) -> Executable:
    return dialect.update(delivery, [delivery.c.subject_key], [delivery.c.attempts])
