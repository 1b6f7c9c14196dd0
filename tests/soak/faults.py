"""The faults of the soak, each of which ends by itself."""

import time
from collections.abc import Callable
from contextlib import closing, suppress

from tests.clusters.black_box import BlackBox
from tests.clusters.fleet import LEASE_SECONDS
from tests.clusters.session import DriverError, Session
from tests.soak.servers import Database

VICTIM = 1
"""The dispatcher that is killed and frozen; the other one runs from the beginning to the end."""
OUTAGE_SECONDS = 10.0
LOCK_SECONDS = 6.0

Fault = Callable[[BlackBox, Database], None]


def kill_a_dispatcher(box: BlackBox, _: Database) -> None:
    box.fleet.kill(VICTIM)


def freeze_a_dispatcher(box: BlackBox, _: Database) -> None:
    dispatcher = box.fleet.dispatchers[VICTIM]
    dispatcher.freeze()
    time.sleep(1.5 * LEASE_SECONDS)
    dispatcher.thaw()


def vercel_is_down(box: BlackBox, _: Database) -> None:
    box.receiver.behaviour = lambda: 503
    time.sleep(OUTAGE_SECONDS)
    box.receiver.behaviour = None


def vercel_is_slow(box: BlackBox, _: Database) -> None:
    box.receiver.behaviour = lambda: time.sleep(1.0)
    time.sleep(OUTAGE_SECONDS)
    box.receiver.behaviour = None


def vercel_throttles(box: BlackBox, _: Database) -> None:
    box.receiver.behaviour = lambda: 429
    time.sleep(OUTAGE_SECONDS / 2)
    box.receiver.behaviour = None


def a_row_is_locked(_: BlackBox, database: Database) -> None:
    """A session that looks at an installation forgets to end its transaction. On SQLite it would stop every writer."""
    lock = "" if database.url.startswith("sqlite") else " FOR UPDATE"
    with closing(Session(database.url)) as session, suppress(*DriverError), session.transaction() as cursor:
        cursor.execute(f"SELECT due_at FROM vercel_installation WHERE installation_id = 'icfg_0'{lock}")
        cursor.fetchall()
        time.sleep(LOCK_SECONDS)


FAULTS: tuple[Fault, ...] = (
    kill_a_dispatcher,
    freeze_a_dispatcher,
    vercel_is_down,
    vercel_is_slow,
    vercel_throttles,
    a_row_is_locked,
)
