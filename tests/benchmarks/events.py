"""Databases with events in them."""

import time

import sqlalchemy as sa

from dispatcher.database import migration
from dispatcher.database.transactions import Database
from dispatcher.outbox.events import RESOURCE_UPDATED
from dispatcher.outbox.tables import delivery, installation, outbox
from tests.contract.crowd import n, named, numbers, unlimited


def fresh(database: Database) -> None:
    """Recreates the tables, empty."""
    migration.migrate(database)
    migration.downgrade(database)
    migration.migrate(database)


def commit(database: Database, events: int, *, subjects: int, installations: int, prefix: str = "db_") -> None:
    """Commits events of the subjects in turn, spread evenly over the installations. `prefix`: that of the resources' ids."""
    subject = n % subjects
    values = {
        "installation_id": named("icfg_", subject % installations),
        "type": sa.literal(RESOURCE_UPDATED),
        "resource_id": named(prefix, subject),
    }
    selected = sa.select(*(value.label(name) for name, value in values.items()))
    source = selected.select_from(numbers(10 ** len(str(events - 1)))).where(n < events).order_by(n)
    with unlimited(database) as connection:
        connection.execute(sa.insert(outbox).from_select(list(values), source))


def wait_until_delivered(database: Database, seconds: float = 600) -> None:
    """Waits until nothing is pending and nothing is leased. Raises AssertionError if that takes longer than `seconds`."""
    waiting = sa.select(
        sa.exists().select_from(outbox),
        sa.exists().select_from(delivery),
        sa.exists().select_from(installation).where(installation.c.lease_token.is_not(None)),
    )
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with database.read() as connection:
            if not any(connection.execute(waiting).one()):
                return
        time.sleep(0.1)
    raise AssertionError(f"something is still pending after {seconds:g} s")
