"""The rows of installations for which nothing has happened for long are deleted; nothing that relies on a row is hurt."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

import pytest
import sqlalchemy as sa
from sqlalchemy import Connection, Engine

from dispatcher import store
from dispatcher.database.transactions import Database
from dispatcher.outbox.tables import installation
from dispatcher.store import installations
from dispatcher.store.collection import _collect
from tests.contract.databases import on_servers
from tests.contract.steps import ID, LEASE, claim, collect, deliver, standing, write

WEEK = timedelta(days=7)
TICK = timedelta(milliseconds=1)


def forget(database: Database, idle_for: timedelta = WEEK, chunk: int = 500) -> None:
    after: str | None = ""
    while after is not None:
        after = store.forget_idle(database, idle_for, after, chunk)


def known(database: Database) -> list[str]:
    with database.read() as connection:
        key = installation.c.installation_id
        return list(connection.execute(sa.select(key).order_by(key)).scalars())


def insert(database: Database, installation_id: str, **values: object) -> None:
    with database.engine.begin() as connection:
        connection.execute(sa.insert(installation).values(installation_id=installation_id, **values))


@pytest.fixture
def still(database: Database) -> Database:
    """The database with a clock that stands still."""
    return standing(database)


@pytest.mark.varies
def test_a_row_is_forgotten_once_nothing_has_happened_for_long(still: Database) -> None:
    long_ago = still.now() - WEEK
    insert(still, "never_used")
    insert(still, "old", last_delivered_at=long_ago - TICK)
    insert(still, "recent", last_delivered_at=long_ago)
    insert(still, "throttled", throttled_until=long_ago)
    insert(still, "throttled_long_ago", throttled_until=long_ago - TICK)
    insert(still, "requested", rate_window=f"[{(long_ago - TICK).timestamp()},{long_ago.timestamp()}]")
    insert(still, "requested_long_ago", rate_window=f"[{(long_ago - TICK).timestamp()}]")
    insert(still, "unreadable", rate_window="{")
    insert(still, "unreadable_too", rate_window='[{"at": 1}]')
    forget(still)
    assert known(still) == ["recent", "requested", "throttled"]


def test_a_row_that_says_something_stays(still: Database) -> None:
    now = still.now()
    insert(still, "due", due_at=now)
    insert(still, "leased", lease_token="t", leased_until=now - WEEK, leased_by="d")
    insert(still, "paused", pause_reason="unauthorized", paused_since=now - WEEK, paused_until=now - WEEK)
    insert(still, "plain")
    forget(still)
    assert known(still) == ["due", "leased", "paused"]


def test_a_row_with_a_delivery_stays(database: Database, partner: Engine) -> None:
    collect(database, partner, "db_1")
    with database.engine.begin() as connection:
        connection.execute(sa.update(installation).values(due_at=None))  # stranded: the sweep will find it
    forget(database)
    assert known(database) == [ID]


def test_all_are_looked_at_chunk_by_chunk(still: Database) -> None:
    for number in range(7):
        insert(still, f"icfg_{number}", rate_window=f"[{still.now().timestamp()}]" if number < 3 else None)
    forget(still, chunk=2)
    assert known(still) == ["icfg_0", "icfg_1", "icfg_2"]


def test_a_forgotten_installation_comes_back_with_its_next_event(database: Database, partner: Engine) -> None:
    collect(database, partner, "db_1")
    deliver(database)
    forget(database, timedelta(days=-1))
    assert known(database) == []
    collect(database, partner, "db_2")
    assert deliver(database) == ["db_2"]


class Between(Database):
    """Takes a step of somebody else after each read, that is, before the rows that were read are locked."""

    def __init__(self, database: Database, step: Callable[[], object]) -> None:
        super().__init__(database.engine, database.dialect, database.schema)
        self._step = step

    @contextmanager
    def read(self) -> Iterator[Connection]:
        with super().read() as connection:
            yield connection
        self._step()


@pytest.mark.parametrize("what", ["an event is collected", "it is paused", "it is forgotten"])
def test_what_happens_before_the_rows_are_locked_is_seen(database: Database, partner: Engine, what: str) -> None:
    steps: dict[str, Callable[[], object]] = {
        "an event is collected": lambda: collect(database, partner, "db_1"),
        "it is paused": lambda: installations.pause(database, ID),
        "it is forgotten": lambda: forget(database),
    }
    insert(database, ID)
    store.forget_idle(Between(database, steps[what]), WEEK)
    assert known(database) == ([] if what == "it is forgotten" else [ID])
    assert deliver(database) == (["db_1"] if what == "an event is collected" else [])


@pytest.mark.varies
@on_servers
def test_a_row_that_a_collection_holds_is_skipped(database: Database, partner: Engine) -> None:
    insert(database, ID)
    insert(database, "icfg_2")
    with partner.begin() as connection:
        write(connection, "db_1")
    with database.engine.connect() as collecting, collecting.begin() as transaction:
        _collect(collecting, database.dialect, 500, store.LOWEST_ID, LEASE * 0)
        forget(database)
        transaction.commit()
    assert known(database) == [ID]
    assert [one.subject.resource_id for lease in claim(database) for one in lease.deliveries] == ["db_1"]
    assert store.repair(database) == 0
