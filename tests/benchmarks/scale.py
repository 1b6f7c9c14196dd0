"""Scale: how long collect, claim and settle take, compared between empty tables and large backlogs."""

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlalchemy import make_url

from dispatcher import store
from dispatcher.database.transactions import Database, open_database
from dispatcher.outbox.tables import outbox
from dispatcher.policy.decision import Action, Decision
from dispatcher.policy.outcome import Outcome, OutcomeKind
from tests.benchmarks.events import commit, fresh
from tests.benchmarks.machine import Machine
from tests.benchmarks.table import Line, median_ratio
from tests.contract.crowd import analyze, crowd

BATCH, INSTALLATIONS = 500, 100
TIMED_ROUNDS = 30
LEASE = timedelta(seconds=60)
DELIVERED = Outcome(OutcomeKind.DELIVERED), Decision(Action.DELIVERED)
TOMORROW = Outcome(OutcomeKind.FAILED), Decision(Action.RETRY, delay=86_400)
_SMALL, _LARGE = "10,000 waiting", "1,000,000 waiting, 100,000 installations paused"
_PINNED = "the same, and a transaction pins vacuum, after 50,000 deliveries"


class Place:
    """Tables in a schema of their own, and the low-water marks that a worker keeps."""

    def __init__(self, url: str, name: str) -> None:
        setup = open_database(url)
        with setup.engine.begin() as connection:
            connection.exec_driver_sql(f"DROP SCHEMA IF EXISTS {name} CASCADE")
            connection.exec_driver_sql(f"CREATE SCHEMA {name}")
        setup.close()
        self.database: Database = open_database(url, name)
        fresh(self.database)
        self._event_floor = store.LOWEST_ID
        self._due_low_water: datetime = store.LONG_AGO

    def journey(self, events: int, how: tuple[Outcome, Decision] = DELIVERED, prefix: str = "db_") -> dict[str, float]:
        """Takes this number of events through all steps; returns the milliseconds that each step took."""
        commit(self.database, events, subjects=events, installations=INSTALLATIONS, prefix=prefix)
        began = time.perf_counter()
        collected = store.collect(self.database, events, self._event_floor)
        collecting = time.perf_counter()
        claimed = store.claim(
            self.database,
            installations=INSTALLATIONS,
            deliveries=events,
            lease=LEASE,
            leased_by="benchmark",
            suspects=0,
            due_low_water=self._due_low_water,
        )
        claiming = time.perf_counter()
        assert sum(len(lease.deliveries) for lease in claimed.leased) == events
        self._settle(claimed.leased, how)
        settling = time.perf_counter()
        self._event_floor, self._due_low_water = collected.last_event_id, claimed.at
        laps = (collecting - began, claiming - collecting, settling - claiming)
        return {step: lap * 1000 for step, lap in zip(("collect", "claim", "settle"), laps, strict=True)}

    def _settle(self, leased: tuple[store.Leased, ...], how: tuple[Outcome, Decision]) -> None:
        answers = [store.Answer(one, lease.token, *how) for lease in leased for one in lease.deliveries]
        states = [store.InstallationState(lease.installation_id, lease.token, release=True) for lease in leased]
        assert not store.settle(self.database, answers, states, LEASE).lost


def measure(machine: Machine) -> Iterator[Line]:
    """Measures milliseconds per batch, interleaved with batches on empty tables: in a database of their own, whose vacuum nothing pins."""
    url, timed = machine.databases["postgresql"].url, 3 if machine.quick else TIMED_ROUNDS
    empty, small, large = Place(_another_database(url), "empty"), Place(url, "small"), Place(url, "large")
    small.journey(machine.size(10_000), TOMORROW, prefix="waiting_")
    places = {_SMALL: small}
    if not machine.quick:
        crowd(large.database)
        _empty_outbox(large.database)
        places[_LARGE] = large
    for place in (empty, small, large):
        analyze(place.database)
    yield from _compare(empty, places, timed)
    with _vacuum_pinned(url):
        for _ in range(machine.size(50_000) // BATCH):
            large.journey(BATCH)
        yield from _compare(empty, {_PINNED: large}, timed)
    for place in (empty, small, large):
        place.database.close()


def _another_database(url: str) -> str:
    """Creates an empty database on the same server; returns its URL."""
    engine = sa.create_engine(open_database(url).engine.url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql("DROP DATABASE IF EXISTS empty")
        connection.exec_driver_sql("CREATE DATABASE empty")
    engine.dispose()
    return make_url(url).set(database="empty").render_as_string(hide_password=False)


def _empty_outbox(database: Database) -> None:
    with database.engine.begin() as connection:
        connection.execute(sa.delete(outbox))


@contextmanager
def _vacuum_pinned(url: str) -> Iterator[None]:
    """Keeps a transaction open that might still read rows that are deleted within the block."""
    engine = sa.create_engine(open_database(url).engine.url, isolation_level="REPEATABLE READ")
    with engine.begin() as connection:
        connection.execute(sa.select(1))
        yield
    engine.dispose()


def _compare(empty: Place, places: dict[str, Place], timed: int) -> Iterator[Line]:
    rounds = [
        {"": empty.journey(BATCH)} | {name: place.journey(BATCH) for name, place in places.items()}
        for _ in range(timed)
    ]
    for name in places:
        for step in rounds[0][name]:
            taken, bare = ([laps[at][step] for laps in rounds] for at in (name, ""))
            value = f"{statistics.median(taken):.1f} ms"
            yield Line("scale", f"{step}, {name}", value, median_ratio(taken, bare), "× empty tables", at_most=2)
