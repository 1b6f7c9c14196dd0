"""Steps of the protocol as the contract tests take them, one at a time."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import sqlalchemy as sa
from sqlalchemy import Connection, Engine

from dispatcher import store
from dispatcher.database import Database
from dispatcher.policy import Action, DeadLetterReason, Decision, Outcome, OutcomeKind
from dispatcher.tables import installation

LEASE = timedelta(seconds=60)
ID = "icfg_1"
DELIVERED = Decision(Action.DELIVERED)
REJECTED = Decision(Action.BURY, DeadLetterReason.REJECTED)
Result = TypeVar("Result")


def write(partner: Connection, *resources: str, installation_id: str = ID) -> None:
    """The partner's plain INSERT, in the transaction that its connection is in."""
    schema = partner.get_execution_options().get("schema_translate_map", {}).get(None)
    table = f"{schema}.vercel_outbox" if schema else "vercel_outbox"
    for resource in resources:
        statement = f"INSERT INTO {table} (installation_id, type, resource_id) VALUES (:i, 'resource.updated', :r)"
        partner.execute(sa.text(statement), {"i": installation_id, "r": resource})


def collect(database: Database, partner: Engine, *resources: str, installation_id: str = ID) -> None:
    """Changes of these resources, committed and collected."""
    with partner.begin() as connection:
        write(connection, *resources, installation_id=installation_id)
    store.collect(database, 500)


def claim(database: Database, installations: int = 9, max_attempts: int = 20) -> tuple[store.Leased, ...]:
    """What one claim leased."""
    return store.claim(
        database,
        installations=installations,
        deliveries=500,
        lease=LEASE,
        leased_by="test",
        max_attempts=max_attempts,
    ).leased


def settle(database: Database, *leased: store.Leased, decision: Decision = DELIVERED) -> store.Settled:
    """The same answer to everything that was claimed; the leases are given back."""
    kind = OutcomeKind.DELIVERED if decision.action is Action.DELIVERED else OutcomeKind.FAILED
    answers = [store.Answer(one, lease.token, Outcome(kind), decision) for lease in leased for one in lease.deliveries]
    states = [store.InstallationState(lease.installation_id, lease.token, release=True) for lease in leased]
    return store.settle(database, answers, states, LEASE)


def deliver(database: Database) -> list[str | None]:
    """The resources that one round of collect, claim and settle delivers."""
    store.collect(database, 500)
    leased = claim(database)
    settle(database, *leased)
    return [one.subject.resource_id for lease in leased for one in lease.deliveries]


def expire_leases(database: Database) -> None:
    """As if their time had passed."""
    with database.engine.begin() as connection:
        held = installation.c.leased_until.is_not(None)
        connection.execute(sa.update(installation).where(held).values(leased_until=store.LONG_AGO))


def count(database: Database, table: sa.Table) -> int:
    """Rows of the table."""
    with database.read() as connection:
        return int(connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one())


@contextmanager
def in_background(step: Callable[[], Result]) -> Iterator[Future[Result]]:
    """Runs the step in a thread of its own; the end of the block waits for it."""
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(step)


def stays_blocked(future: Future[Result], seconds: float = 0.4) -> bool:
    """Whether it does not end within these seconds."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not future.done():
        time.sleep(0.01)
    return not future.done()
