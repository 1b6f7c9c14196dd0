"""`dispatcher deliveries` on a delivery that has failed, and waits for its next attempt."""

from datetime import timedelta

import pytest
import sqlalchemy as sa

from dispatcher import store
from dispatcher.database.transactions import Database
from dispatcher.outbox.events import ResourceUpdated
from dispatcher.outbox.publisher import insert_event
from dispatcher.outbox.tables import delivery, installation
from dispatcher.store import installations
from tests.cli.conftest import Terminal


@pytest.fixture(autouse=True)
def backoff(database: Database) -> None:
    """Two deliveries that are due in an hour."""
    with database.engine.begin() as connection:
        for resource in ("db_1", "db_2"):
            connection.execute(insert_event(ResourceUpdated(installation_id="icfg_1", resource_id=resource)))
    store.collect(database, 500)
    later = database.now() + timedelta(hours=1)
    with database.engine.begin() as connection:
        failed = {"attempts": 3, "last_status": 503, "last_error": "busy"}
        connection.execute(sa.update(delivery).values(due_at=later, **failed))
        connection.execute(sa.update(installation).values(due_at=later))


def test_the_list_says_what_comes_next(dispatcher: Terminal, database: Database) -> None:
    store.beat(database, store.Heartbeat("one", "1.0", 0, is_outage=False, is_first=True))
    ended = dispatcher("deliveries", "list", "--resource", "db_1")
    header, line = ended.out.splitlines()
    assert header.split()[:3] == ["installation", "resource", "product"]
    assert line.startswith("icfg_1        db_1")
    assert line.endswith("attempt 4, after the backoff")
    rows = dispatcher("deliveries", "list", "--json").rows
    assert [(row["resource_id"], row["attempts"], row["last_status"]) for row in rows] == [
        ("db_1", 3, 503),
        ("db_2", 3, 503),
    ]
    assert "there may be more" in dispatcher("deliveries", "list", "--limit", "1").complaint


def test_a_retry_is_announced_asked_for_and_done(dispatcher: Terminal) -> None:
    dry = dispatcher("deliveries", "retry", "--all", "--dry-run")
    assert dry.out == "2 deliveries: 2 requests, 0s or more at the rate limit; nothing was changed\n"
    asked = dispatcher("deliveries", "retry", "--all")
    assert asked.code == 2
    assert "--yes" in asked.complaint
    (row,) = dispatcher("deliveries", "retry", "--resource", "db_1", "--yes", "--json").rows
    assert row == {"deliveries": 1, "paused": 0, "requests": 1, "seconds": 0.0, "retried": 1}
    done = dispatcher("deliveries", "retry", "--installation", "icfg_1", "--since", "1h", "--yes")
    assert done.out == "1 delivery made due now: 1 request, 0s or more at the rate limit\n"
    again = dispatcher("deliveries", "retry", "--all", "--yes")
    assert (again.code, again.out) == (3, "")
    assert "nothing was changed" in again.complaint


def test_a_paused_installation_is_named(dispatcher: Terminal, database: Database) -> None:
    installations.pause(database, "icfg_1")
    done = dispatcher("deliveries", "retry", "--all", "--yes")
    assert "2 wait until their installation is resumed" in done.out


@pytest.mark.parametrize("arguments", [(), ("--all", "--resource", "db_1"), ("--since", "yesterday")])
def test_without_a_clear_choice_nothing_is_retried(dispatcher: Terminal, arguments: tuple[str, ...]) -> None:
    assert dispatcher("deliveries", "retry", *arguments, "--yes").code == 2
    assert {row["attempts"] for row in dispatcher("deliveries", "list", "--json").rows} == {3}


def test_where_nothing_waits_the_exit_code_is_3(dispatcher: Terminal) -> None:
    ended = dispatcher("deliveries", "list", "--installation", "icfg_2")
    assert (ended.code, ended.out, ended.complaint) == (3, "", "dispatcher: no delivery is waiting")
