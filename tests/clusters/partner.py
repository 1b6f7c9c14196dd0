"""The partner: transactions that leave a fresh mark in a resource, in its history and in the event that they write."""

import itertools
import threading
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import NamedTuple

from tests.clusters.session import DriverError, Session

TABLES = (
    "CREATE TABLE partner_resource (resource VARCHAR(64) PRIMARY KEY, installation VARCHAR(64) NOT NULL, mark BIGINT NOT NULL)",
    "CREATE TABLE partner_history (mark BIGINT PRIMARY KEY, resource VARCHAR(64) NOT NULL)",
)
EVENT = """
INSERT INTO vercel_outbox (installation_id, type, resource_id, product_id) VALUES (%s, 'resource.updated', %s, %s)"""
"""The product is the mark: a request names that of the newest event that it announces."""
RETRY_SECONDS = 0.2


class Commit(NamedTuple):
    """A transaction that the database acknowledged."""

    mark: int
    resource: str
    at: float
    """When the partner knew of it, in epoch seconds."""


@dataclass
class Load:
    """How much the partner writes."""

    installations: int = 20
    resources: int = 4
    """For each installation."""
    pause_seconds: float = 0.05
    """Between two transactions of a writer."""

    names: list[tuple[str, str]] = field(init=False)
    """The installation and the resource of each resource."""

    def __post_init__(self) -> None:
        self.names = [(f"icfg_{i}", f"res_{i}_{r}") for i in range(self.installations) for r in range(self.resources)]


class Partner:
    """One writer for each URL, each in a thread of its own, until it is stopped."""

    def __init__(self, urls: Sequence[str], load: Load) -> None:
        self._load = load
        self._marks = itertools.count(1)
        self._stopping = threading.Event()
        self.commits: list[Commit] = []
        self.failures: list[str] = []
        self._writers = [threading.Thread(target=self._write, args=(url, place)) for place, url in enumerate(urls)]

    def prepare(self, url: str) -> None:
        """Creates the partner's tables and a row for each resource."""
        with closing(Session(url)) as session, session.transaction() as cursor:
            for table in TABLES:
                cursor.execute(table)
            cursor.executemany(
                "INSERT INTO partner_resource (installation, resource, mark) VALUES (%s, %s, 0)", self._load.names
            )

    def start(self) -> None:
        for writer in self._writers:
            writer.start()

    def stop(self) -> None:
        self._stopping.set()
        for writer in self._writers:
            if writer.is_alive():
                writer.join()

    def _write(self, url: str, place: int) -> None:
        with closing(Session(url)) as session:
            self._write_on(session, place)

    def _write_on(self, session: Session, place: int) -> None:
        names = itertools.islice(itertools.cycle(self._load.names), place * 7, None)
        while not self._stopping.wait(self._load.pause_seconds):
            installation, resource = next(names)
            mark = next(self._marks)
            try:
                self._commit(session, installation, resource, mark)
            except DriverError as error:
                self.failures.append(f"{type(error).__name__}: {error}")
                self._stopping.wait(RETRY_SECONDS)
            else:
                self.commits.append(Commit(mark, resource, time.time()))

    def _commit(self, session: Session, installation: str, resource: str, mark: int) -> None:
        with session.transaction() as cursor:
            cursor.execute("UPDATE partner_resource SET mark = %s WHERE resource = %s", (mark, resource))
            cursor.execute("INSERT INTO partner_history (mark, resource) VALUES (%s, %s)", (mark, resource))
            cursor.execute(EVENT, (installation, resource, str(mark)))
