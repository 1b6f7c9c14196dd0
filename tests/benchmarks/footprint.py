"""Footprint: the cost of an idle dispatcher, and its memory with a very large backlog."""

import time
from collections.abc import Iterator

import sqlalchemy as sa

from dispatcher.database.transactions import Database, open_database
from tests.benchmarks.events import commit, fresh, wait_until_delivered
from tests.benchmarks.machine import Machine, Sink, postgresql
from tests.benchmarks.programs import dispatcher, running, settings
from tests.benchmarks.table import Line
from tests.contract.crowd import EVENTS, crowd

IDLE_SECONDS = 30.0
"""Long enough for the gauges to be read twice."""
WAITING = "a million waiting, 100,000 delivered"
# Without the statements that begin and end a transaction; its time limits are set in one round trip, whatever their number.
_COUNTED = """SELECT coalesce(sum(calls), 0)::bigint FROM pg_stat_statements
WHERE query !~* '^(begin|commit|rollback|set local)' AND query !~ 'pg_stat_statements'"""


def measure(machine: Machine) -> Iterator[Line]:
    """Measures default settings on PostgreSQL and SQLite. PostgreSQL itself counts the statements."""
    with postgresql("shared_preload_libraries=pg_stat_statements") as server:
        yield from _idle(machine, "postgresql", server.url)
        yield from _idle(machine, "sqlite", machine.databases["sqlite"].url)
        if not machine.quick:
            yield from _crowded(machine.sink, server.url)


def _idle(machine: Machine, name: str, url: str) -> Iterator[Line]:
    seconds = 2.0 if machine.quick else IDLE_SECONDS
    database = open_database(url)
    fresh(database)
    with running(dispatcher("run"), settings(url, machine.sink.url)) as worker:
        commit(database, 10, subjects=10, installations=10)
        wait_until_delivered(database)
        time.sleep(seconds / 10)  # ticks become rare only some time after the last event
        if name == "postgresql":
            yield from _statements(database, seconds)
        share = 100 * worker.processor_share(seconds)
        yield Line("footprint", f"{name}, idle", f"{share:.1f} % of a core", share, "% of a core", at_most=0.7)
        yield _memory(f"{name}, idle", worker.memory(), 80)
    database.close()


def _statements(database: Database, seconds: float) -> Iterator[Line]:
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")
        connection.exec_driver_sql("SELECT pg_stat_statements_reset()")
        time.sleep(seconds)
        rate = connection.execute(sa.text(_COUNTED)).scalar_one() / seconds
    yield Line("footprint", "postgresql, idle", f"{rate:.1f} statements/s", rate, "statements/s", at_most=6)


def _crowded(sink: Sink, url: str) -> Iterator[Line]:
    database = open_database(url)
    fresh(database)
    crowd(database)
    sink.forget()
    with running(dispatcher("run"), settings(url, sink.url, RATE_LIMIT="off")) as worker:
        sink.arrivals(EVENTS, seconds=600)
        yield _memory(f"postgresql, {WAITING}", worker.peak_memory(), 150)
    database.close()


def _memory(case: str, megabytes: float, at_most: float) -> Line:
    return Line("footprint", case, f"{megabytes:.0f} MB resident", megabytes, "MB", at_most=at_most)
