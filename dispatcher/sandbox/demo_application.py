"""The partner's application in the demo, and the changes that it makes."""

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import sqlalchemy as sa
from sqlalchemy import Connection

from dispatcher import ResourceUpdated, publish
from dispatcher.database.transactions import Database

INSTALLATIONS = tuple(f"icfg_demo{number}" for number in range(8))
REVOKED = "icfg_revoked"
UNKNOWN = "db_unknown"
ROLLED_BACK = "db_rolled_back"
BURST = "db_burst"
CHANGES = 300

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Change:
    """A committed change."""

    installation_id: str
    resource_id: str
    at: float
    """Epoch seconds just before the commit."""


@dataclass(slots=True)
class Application:
    """The partner's application: each change is one transaction that also inserts the event."""

    database: Database
    changes: list[Change] = field(default_factory=list)
    stopped: threading.Event = field(default_factory=threading.Event)

    def set_up(self) -> None:
        """Creates its own table."""
        with self.database.engine.begin() as connection:
            connection.execute(sa.text("CREATE TABLE resource (id TEXT PRIMARY KEY, version INTEGER NOT NULL)"))

    def change(self, installation_id: str, resource_id: str) -> None:
        """Changes a resource."""
        with self.database.engine.connect() as connection, connection.begin() as transaction:
            self._write(connection, installation_id, resource_id)
            at = time.time()
            transaction.commit()
        self.changes.append(Change(installation_id, resource_id, at))

    def change_and_roll_back(self, installation_id: str, resource_id: str) -> None:
        """Changes a resource, then rolls the transaction back."""
        with self.database.engine.connect() as connection, connection.begin() as transaction:
            self._write(connection, installation_id, resource_id)
            transaction.rollback()

    def _write(self, connection: Connection, installation_id: str, resource_id: str) -> None:
        upsert = "INSERT INTO resource VALUES (:id, 1) ON CONFLICT (id) DO UPDATE SET version = version + 1"
        connection.execute(sa.text(upsert), {"id": resource_id})
        publish(connection, ResourceUpdated(installation_id=installation_id, resource_id=resource_id))


def change_everything(application: Application, say: Say) -> None:
    """Makes every change of the demo, until `stopped` is set."""
    generator = random.Random(8377)  # noqa: S311 (a story, not a secret)
    application.change_and_roll_back(INSTALLATIONS[0], ROLLED_BACK)
    application.change(INSTALLATIONS[0], UNKNOWN)
    for number in range(CHANGES):
        application.change(generator.choice(INSTALLATIONS), f"db_{generator.randrange(30)}")
        if number % 50 == 0:
            application.change(REVOKED, f"db_revoked_{number}")
        if application.stopped.wait(0.01):
            return
    say("a burst: 100 changes of one resource")
    for _ in range(100):
        application.change(INSTALLATIONS[3], BURST)
