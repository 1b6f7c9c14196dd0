"""The database server, the revision of its schema, and how far its clock is from this machine's."""

import time
from dataclasses import dataclass

from dispatcher.database import revisions, schema
from dispatcher.database.transactions import Database


@dataclass(frozen=True, slots=True)
class System:
    """What a dispatcher works with."""

    server: str
    """The kind of the database, with its version if the driver knows it."""
    driver: str
    revision: str | None
    """Of the schema; None: the tables were created by other means than `migrate`."""
    newest_revision: str
    """The newest one that this program knows."""
    clock_ahead: float
    """Seconds that the database's clock is ahead of this machine's; negative if it is behind."""


def read_system(database: Database) -> System:
    """Raises UnusableSchema."""
    revision = schema.check(database).revision
    ahead = clock_ahead(database)
    return System(_server(database), database.engine.driver, revision, revisions.newest(), ahead)


def clock_ahead(database: Database) -> float:
    """Returns the seconds that the database's clock is ahead of this machine's; half of the round trip is deducted."""
    before = time.time()
    theirs = database.now().timestamp()
    return theirs - (before + time.time()) / 2


def _server(database: Database) -> str:
    dialect = database.engine.dialect
    name = "mariadb" if getattr(dialect, "is_mariadb", False) else database.dialect.name
    version = getattr(dialect, "server_version_info", None) or ()
    return " ".join([name, *([".".join(map(str, version))] if version else [])])
