"""pull_suspects: after a crash, reads deliveries one at a time, each of which uses up an attempt before it is sent.

So a delivery that crashes its worker each time becomes a dead letter, and no other does. The new holder of a lease cannot know which of
the deliveries in flight crashed the previous worker. It reads the one that has been due longest, and the next after that one has been
settled; the settlement corrects the attempts. Delivered ones disappear, so eventually the deadly one comes first.
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

ERROR = "the dispatcher stopped before the answer each time this was tried: see its logs from those times"


def pull_suspects(
    database: Database, leases: dict[str, str], lease: timedelta, *, limit: int, under_way: int, max_attempts: int
) -> Suspects:
    """Renews the leases (installation → token) and reads the delivery of each that has been due longest, which uses up an attempt.

    Reads at most `limit` deliveries, minus the `under_way` that are not settled yet. A delivery that has used up `max_attempts` becomes
    a dead letter.
    """

    def step(connection: Connection, skip_locked: bool) -> Suspects:
        dialect = database.dialect
        ours, locked = renew_ours(connection, dialect, leases, lease, skip_locked=skip_locked)
        if not ours:
            return Suspects(locked=locked)
        ids, now = [row.installation_id for row in ours], ours[0].now
        oldest = [one for first in first_due(connection, dialect, ids, 1, now).values() for one in first]
        dead = [one for one in oldest if one.attempts >= max_attempts]
        suspects = choose([one for one in oldest if one.attempts < max_attempts], limit, under_way)
        if suspects:
            counted = [{"subject_key": one.subject_key, "attempts": one.attempts + 1} for one in suspects]
            connection.execute(_write_attempts(dialect), dialect.encode(counted))
        due = frozenset(one.subject.installation_id for one in oldest)
        burials = [Burial(one, DeadLetterReason.EXHAUSTED, one.attempts, None, ERROR) for one in dead]
        buried = bury(connection, dialect, burials, now)
        return Suspects(frozenset(ids), locked, due, tuple(suspects), buried)

    return database.transact_around_locks(step, durable=False)  # losing it in a crash is the same as the lease expiring


def choose(deliveries: Sequence[Delivery], limit: int, under_way: int) -> list[Delivery]:
    """Returns the deliveries to send together. Each attempt that a delivery has used up halves the number that may be under way at the
    same time. So a delivery that crashes its worker repeatedly is soon sent alone, and no longer uses up the attempts of others.
    """
    by_attempts = sorted(deliveries, key=lambda one: one.attempts)
    return [one for place, one in enumerate(by_attempts, under_way) if place < max(1, limit >> one.attempts)]


@cache
def _write_attempts(dialect: Dialect) -> Executable:
    return dialect.update(delivery, [delivery.c.subject_key], [delivery.c.attempts])
