"""One installation in detail: its rate window, its first deliveries, and why it waits, on every database."""

from datetime import timedelta

import orjson
import pytest
import sqlalchemy as sa
from sqlalchemy import Engine

from dispatcher import store
from dispatcher.database.transactions import Database
from dispatcher.inspection.installation_detail import InstallationDetail, RateUse, find_installation
from dispatcher.outbox.tables import delivery, installation
from dispatcher.policy.decision import Action, Decision, ThrottleReason
from dispatcher.policy.rate_window import RateLimit
from dispatcher.store import installations
from tests.contract.steps import GRACES, ID, claim, collect, settle, standing

MINUTELY = RateLimit(60, 60.0)
THROTTLE = Decision(Action.THROTTLE, ThrottleReason.CREDENTIALS_UNAVAILABLE, 600)


def found(database: Database, rate: RateLimit | None = MINUTELY, limit: int = 9) -> InstallationDetail:
    detail = find_installation(database, ID, GRACES, rate, limit)
    assert detail is not None
    return detail


def change(database: Database, **values: object) -> None:
    with database.engine.begin() as connection:
        connection.execute(sa.update(installation).values(**values))


def test_one_for_which_nothing_has_been_collected_is_unknown(database: Database, partner: Engine) -> None:
    collect(database, partner, "db_1", installation_id="icfg_2")
    assert find_installation(database, ID, GRACES, MINUTELY, 9) is None
    assert find_installation(database, "icfg_2 ", GRACES, MINUTELY, 9) is None


@pytest.mark.varies
def test_the_use_of_its_rate_window_is_that_of_the_stored_one_by_the_database_clock(
    database: Database, partner: Engine
) -> None:
    still = standing(database)
    collect(database, partner, *(f"db_{n}" for n in range(240)))
    now = still.now().timestamp()
    change(database, rate_window=orjson.dumps([now - 61, *(now - 20 - n / 8 for n in range(41))]).decode())
    detail = found(still)
    assert detail.rate is not None
    assert (detail.rate.used, detail.rate.limit, detail.rate.window, detail.rate.next_in) == (41, 60, 60.0, 0.0)
    assert (detail.waiting, len(detail.deliveries)) == (240, 9)
    assert detail.rate.backlog == pytest.approx(240 - 20, abs=0.01)  # the newest use is 20 s old
    change(database, rate_window=orjson.dumps([now - 56] * 60).decode())
    assert found(still).rate == RateUse(60, 60, 60.0, pytest.approx(4.0, abs=0.01), pytest.approx(184.0, abs=0.01))  # type: ignore[arg-type]


def test_without_deliveries_or_requests_nothing_is_used(database: Database, partner: Engine) -> None:
    collect(database, partner, "db_1")
    with database.engine.begin() as connection:
        connection.execute(sa.delete(delivery))
    detail = found(database)
    assert (detail.waiting, detail.deliveries, detail.rate) == (0, [], RateUse(0, 60, 60.0, 0.0, 0.0))
    assert found(database, rate=None).rate is None


@pytest.mark.parametrize("broken", ["nonsense", "7", '{"a": 1}', "[null]", '["x", 1]', "[NaN]"])
def test_a_window_that_somebody_has_broken_is_left_out(database: Database, partner: Engine, broken: str) -> None:
    collect(database, partner, "db_1")
    change(database, rate_window=broken)
    assert found(database).rate is None


def test_its_first_deliveries_are_listed_with_what_happens_next(database: Database, partner: Engine) -> None:
    collect(database, partner, "db_1", "db_2", "db_3")
    store.beat(database, store.Heartbeat("one", "1.0", 0, is_outage=False, is_first=True))
    with database.engine.begin() as connection:
        later = {"db_2": timedelta(hours=1), "db_3": timedelta(hours=-1)}
        for resource, by in later.items():
            row = sa.update(delivery).where(delivery.c.resource_id == resource)
            connection.execute(row.values(due_at=database.now() + by))
    assert [(one.resource_id, one.next) for one in found(database).deliveries] == [
        ("db_3", "attempt 1 is overdue: see the dispatcher's log"),
        ("db_1", "attempt 1, as soon as a dispatcher claims it"),
        ("db_2", "attempt 1"),
    ]
    assert [one.resource_id for one in found(database, limit=1).deliveries] == ["db_3"]
    installations.pause(database, ID)
    assert {one.next for one in found(database).deliveries} == {
        "nothing is sent until `dispatcher installations resume icfg_1`"
    }


def test_it_says_why_it_is_throttled_as_long_as_it_is(database: Database, partner: Engine) -> None:
    collect(database, partner, "db_1")
    assert found(database).throttled_by is None
    settle(database, *claim(database), decision=THROTTLE)
    assert found(database).throttled_by is None  # the settlement of the answer alone does not throttle
    change(database, throttled_until=database.now() + timedelta(hours=1))
    assert found(database).throttled_by == "credentials_unavailable"
    change(database, throttled_until=database.now())
    assert found(database).throttled_by is None


def test_a_full_window_has_no_request_to_blame(database: Database, partner: Engine) -> None:
    collect(database, partner, "db_1")
    settle(database, *claim(database))
    change(database, throttled_until=database.now() + timedelta(hours=1))
    assert found(database).throttled_by is None


@pytest.mark.parametrize(("faults", "is_open"), [(4, False), (5, True)])
def test_its_breaker_opens_after_faults_in_a_row(
    database: Database, partner: Engine, faults: int, is_open: bool
) -> None:
    collect(database, partner, "db_1")
    change(database, faults=faults, failures=7)
    assert (found(database).faults, found(database).is_breaker_open) == (faults, is_open)
    assert found(database).installation.failures == 7
