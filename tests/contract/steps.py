"""The steps of the protocol, which the contract tests take one at a time."""

import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import sqlalchemy as sa
from sqlalchemy import Connection, Engine

from dispatcher import store
from dispatcher.database.transactions import Database
from dispatcher.inspection.graces import Graces
from dispatcher.outbox.tables import installation
from dispatcher.policy.decision import Action, DeadLetterReason, Decision
from dispatcher.policy.outcome import Outcome, OutcomeKind

LEASE = timedelta(seconds=60)
ID = "icfg_1"
GRACES = Graces(auth=timedelta(hours=24), disabled=timedelta(days=30))
DELIVERED = Decision(Action.DELIVERED)
REJECTED = Decision(Action.BURY, DeadLetterReason.REJECTED)
DEADLINE_SECONDS = 60.0
"""Timeout in seconds for something that happens at once on an idle machine."""
Result = TypeVar("Result")


def write(partner: Connection, *resources: str, installation_id: str = ID) -> None:
    """Executes the partner's plain INSERT in the connection's current transaction."""
    schema = partner.get_execution_options().get("schema_translate_map", {}).get(None)
    table = f"{schema}.vercel_outbox" if schema else "vercel_outbox"
    for resource in resources:
        statement = f"INSERT INTO {table} (installation_id, type, resource_id) VALUES (:i, 'resource.updated', :r)"
        partner.execute(sa.text(statement), {"i": installation_id, "r": resource})


def collect(database: Database, partner: Engine, *resources: str, installation_id: str = ID) -> None:
    """Commits and collects one change of each of these resources."""
    with partner.begin() as connection:
        write(connection, *resources, installation_id=installation_id)
    store.collect(database, 500)


def claim(database: Database, installations: int = 9, suspects: int = 0) -> tuple[store.Leased, ...]:
    """Returns the leases of one claim. In an expired lease that it takes over, `suspects` deliveries are to be read one at a time."""
    return store.claim(
        database, installations=installations, deliveries=500, lease=LEASE, leased_by="test", suspects=suspects
    ).leased


def pull_suspects(
    database: Database, *leased: store.Leased, limit: int = 64, under_way: int = 0, max_attempts: int = 20
) -> store.Suspects:
    tokens = {one.installation_id: one.token for one in leased}
    return store.pull_suspects(database, tokens, LEASE, limit=limit, under_way=under_way, max_attempts=max_attempts)


def settle(database: Database, *leased: store.Leased, decision: Decision = DELIVERED) -> store.Settled:
    """Settles the same answer for every claimed delivery and gives the leases back."""
    kind = OutcomeKind.DELIVERED if decision.action is Action.DELIVERED else OutcomeKind.FAILED
    answers = [store.Answer(one, lease.token, Outcome(kind), decision) for lease in leased for one in lease.deliveries]
    states = [store.InstallationState(lease.installation_id, lease.token, release=True) for lease in leased]
    return store.settle(database, answers, states, LEASE)


def deliver(database: Database) -> list[str | None]:
    """Runs one round of collect, claim and settle; returns the delivered resources."""
    store.collect(database, 500)
    leased = claim(database)
    settle(database, *leased)
    return [one.subject.resource_id for lease in leased for one in lease.deliveries]


STANDING = {"sqlite": "'{}'", "postgresql": "timestamptz '{}+00'", "mysql": "timestamp('{}')"}


def standing(database: Database) -> Database:
    """Returns the same database with a clock that stands still from now on."""
    dialect = type(database.dialect)()
    dialect.now = STANDING[dialect.name].format(dialect.instant(database.now()))
    return Database(database.engine, dialect, database.schema)


DURABILITY = {"postgresql": "SHOW synchronous_commit", "sqlite": "PRAGMA synchronous"}


@contextmanager
def commits(database: Database) -> Iterator[list[bool]]:
    """Records for each commit whether it waits for the disk."""
    waits: list[bool] = []

    def note(connection: Connection) -> None:
        waits.append(connection.exec_driver_sql(DURABILITY[database.dialect.name]).scalar_one() in {"on", 2})

    sa.event.listen(database.engine, "commit", note)
    yield waits
    sa.event.remove(database.engine, "commit", note)


def expire_leases(database: Database) -> None:
    with database.engine.begin() as connection:
        held = installation.c.leased_until.is_not(None)
        connection.execute(sa.update(installation).where(held).values(leased_until=store.LONG_AGO))


def count(database: Database, table: sa.Table) -> int:
    with database.read() as connection:
        return int(connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one())


@contextmanager
def in_background(step: Callable[[], Result]) -> Iterator[Future[Result]]:
    """Runs the step in its own thread. The end of the block waits for it."""
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(step)


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "the condition has not become true in time"
        time.sleep(0.01)


def stays_blocked(future: Future[Result], database: Database) -> bool:
    """Whether the step is waiting for a lock, according to the database itself, and has not ended.

    SQLite does not report locks. There, the step must not end within 0.4 s.
    """
    if database.dialect.name == "sqlite":
        return not wait([future], timeout=0.4).done
    until(lambda: future.done() or is_waited_for_a_lock(database))
    return not future.done()


def is_waited_for_a_lock(database: Database) -> bool:
    """Whether any session of this database, not of the whole server, is waiting for a lock now."""
    with database.read() as connection:
        if database.dialect.name == "postgresql":
            waiting = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
            return connection.exec_driver_sql(waiting).first() is not None
        # Not innodb_trx: it is only refreshed if it has not been read for a while.
        status = str(connection.exec_driver_sql("SHOW ENGINE INNODB STATUS").one()[2])
        transactions = status.partition("\nTRANSACTIONS\n")[2].split("---TRANSACTION ")
        for_rows = [re.findall(r"thread id (\d+)", one) for one in transactions if "\nLOCK WAIT " in one]
        sessions = connection.exec_driver_sql(
            "SELECT id, state FROM information_schema.processlist WHERE db = DATABASE() AND id <> CONNECTION_ID()"
        )
        return any([str(id_)] in for_rows or state in WAITING for id_, state in sessions)


WAITING = {"User lock", "Waiting for table metadata lock"}
"""The states in which MySQL and MariaDB report that a session waits for a lock other than a row lock."""
