"""Eight concurrent dispatchers deliver 100,000 events, in threads with their own connections."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine

from dispatcher import store
from dispatcher.database.transactions import Database, open_database
from dispatcher.outbox.tables import attempt, dead_letter, delivery, outbox
from dispatcher.policy.decision import Action, Decision
from dispatcher.policy.outcome import Outcome, OutcomeKind
from tests.contract.steps import count

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(600)]

EVENTS = 100_000
INSTALLATIONS = 500
RESOURCES = 20
DISPATCHERS = 8
LEASE = timedelta(minutes=10)
COLUMNS = "INSERT INTO vercel_outbox (installation_id, type, resource_id) VALUES "
ROWS_PER_STATEMENT = 1_000


class Leases:
    """The leases that the dispatchers themselves believe they hold."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: set[str] = set()
        self.held_twice: list[str] = []

    @contextmanager
    def hold(self, leased: tuple[store.Leased, ...]) -> Iterator[None]:
        """Holds the leases from the end of the claim to the start of the settlement."""
        ids = {lease.installation_id for lease in leased}
        with self._lock:
            self.held_twice += self._held & ids
            self._held |= ids
        yield
        with self._lock:
            self._held -= ids


def write_all(partner: Engine) -> None:
    subjects = ((n % INSTALLATIONS, n // INSTALLATIONS % RESOURCES) for n in range(EVENTS))
    rows = [f"('icfg_{one}', 'resource.updated', 'db_{other}')" for one, other in subjects]
    for start in range(0, EVENTS, ROWS_PER_STATEMENT):
        with partner.begin() as connection:
            connection.exec_driver_sql(COLUMNS + ", ".join(rows[start : start + ROWS_PER_STATEMENT]))


def dispatch(url: str, schema: str | None, leases: Leases, failed: threading.Event) -> int:
    """Collects, claims and settles until nothing is left; returns the number of deliveries that it settled."""
    database, delivered = open_database(url, schema), 0
    try:
        while not failed.is_set() and count(database, outbox) + count(database, delivery):
            store.collect(database, 500)
            claimed = store.claim(
                database, installations=20, deliveries=200, lease=LEASE, leased_by="one of many", suspects=0
            )
            with leases.hold(claimed.leased):
                answers = [
                    store.Answer(one, lease.token, Outcome(OutcomeKind.DELIVERED), Decision(Action.DELIVERED))
                    for lease in claimed.leased
                    for one in lease.deliveries
                ]
            states = [store.InstallationState(one.installation_id, one.token, release=True) for one in claimed.leased]
            if states:
                assert store.settle(database, answers, states, LEASE).lost == frozenset()
            delivered += len(answers)
    except BaseException:
        failed.set()
        raise
    finally:
        database.close()
    return delivered


def newest(database: Database, table: sa.Table, event_id: sa.Column[int]) -> dict[tuple[str, str], int]:
    """Returns the last event of each subject."""
    subject = table.c.installation_id, table.c.resource_id
    with database.read() as connection:
        rows = connection.execute(sa.select(*subject, sa.func.max(event_id)).group_by(*subject))
        return {(row[0], row[1]): row[2] for row in rows}


@pytest.mark.parametrize("server", ["sqlite", "postgresql", "mysql"], indirect=True)
def test_no_subject_is_ever_under_two_leases_and_the_last_event_of_each_is_delivered(
    database: Database, partner: Engine
) -> None:
    write_all(partner)
    written = newest(database, outbox, outbox.c.id)
    url = database.engine.url.render_as_string(hide_password=False)
    leases, failed = Leases(), threading.Event()
    with ThreadPoolExecutor(DISPATCHERS) as pool:
        dispatching = [pool.submit(dispatch, url, database.schema, leases, failed) for _ in range(DISPATCHERS)]
        delivered = sum(one.result() for one in dispatching)
    assert leases.held_twice == []
    assert newest(database, attempt, attempt.c.last_event_id) == written
    assert len(written) == INSTALLATIONS * RESOURCES
    assert count(database, attempt) == delivered
    assert [count(database, table) for table in (outbox, delivery, dead_letter)] == [0, 0, 0]
    assert store.repair(database) == 0
