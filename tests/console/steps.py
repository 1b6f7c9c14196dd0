"""The steps of the protocol that a seed takes, and a way to take them in the past."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from dispatcher import ResourceUpdated, publish, store
from dispatcher.database.transactions import Database
from dispatcher.outbox.tables import attempt, dead_letter, delivery, dispatcher, installation
from dispatcher.policy.decision import Decision
from dispatcher.policy.outcome import Outcome
from tests.contract.steps import LEASE

DISPATCHER = "dispatcher-7d9c4-x2lkq"
"""The name of the dispatcher that takes them."""
Reply = tuple[Outcome, Decision]
CREATED = (attempt.c.first_created_at, dead_letter.c.first_created_at, delivery.c.first_created_at)
HAPPENED = (
    attempt.c.at,
    dead_letter.c.died_at,
    dead_letter.c.resolved_at,
    dispatcher.c.started_at,
    installation.c.last_delivered_at,
    installation.c.paused_since,
)
LAG = timedelta(milliseconds=20)
"""Time from an event to its first request."""


def announce(database: Database, installation_id: str, *resources: str) -> None:
    """Commits one event of each of these resources."""
    commit(database, *(ResourceUpdated(installation_id=installation_id, resource_id=one) for one in resources))


def commit(database: Database, *events: ResourceUpdated) -> None:
    with database.engine.begin() as connection:
        publish(connection, *events, schema=database.schema)


def send(database: Database, reply: Callable[[store.Delivery], Reply | None], **state: Any) -> None:
    """Settles what is due with these replies (None: it is not sent), and leaves its installations in this state."""
    store.collect(database, 500)
    leases = store.claim(
        database, installations=99, deliveries=500, lease=LEASE, leased_by=DISPATCHER, suspects=0
    ).leased
    replies = [(one, lease.token, reply(one)) for lease in leases for one in lease.deliveries]
    answers = [store.Answer(one, token, *given) for one, token, given in replies if given is not None]
    states = [store.InstallationState(lease.installation_id, lease.token, release=True, **state) for lease in leases]
    store.settle(database, answers, states, LEASE)


@contextmanager
def ago(database: Database, past: timedelta) -> Iterator[None]:
    """Moves what the block writes this far into the past."""
    began = database.now()
    yield
    at = began - past

    def move(connection: Connection) -> None:
        for columns, moment in ((CREATED, at - LAG), (HAPPENED, at)):
            for column in columns:
                connection.execute(sa.update(column.table).where(column >= began).values({column.name: moment}))

    database.transact(move, durable=False)
