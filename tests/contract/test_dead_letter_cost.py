"""What an operator asks of the dead letters costs little where many more are resolved: the plans of the statements."""

from collections.abc import Callable
from datetime import timedelta

import pytest
import sqlalchemy as sa

from dispatcher.database.transactions import Database
from dispatcher.inspection.aftermath import Replays, aftermath
from dispatcher.inspection.causes import causes
from dispatcher.inspection.dead_letters import list_dead_letters, plan
from dispatcher.inspection.resolution_groups import group_resolutions
from dispatcher.outbox.tables import dead_letter
from dispatcher.policy.decision import DeadLetterReason
from dispatcher.store.dead_letters import Filter
from tests.contract.crowd import analyze, n, named, numbers
from tests.contract.plans import explaining

ROWS, REPLAYED = 20_000, 200
OF_UNRESOLVED = 10
"""One of this many is unresolved."""
INSTALLATIONS = 100
LIMIT, SCAN_LIMIT = 50, 1_000
MAX_READ = {"postgresql": ROWS // 4, "mysql": ROWS // 4, "sqlite": 800}
"""The rows that one statement may read, the unresolved ones at most twice; on SQLite, hundreds of its instructions. That is less than it
takes to read all rows.
"""


def fill(database: Database) -> None:
    """Writes dead letters; the newest of the resolved ones were replayed."""
    now, time = database.now(), dead_letter.c.died_at.type
    is_resolved = n % OF_UNRESOLVED != 0
    is_old = n < ROWS - REPLAYED
    long_ago, recently = (sa.literal(now - timedelta(hours=hours), time) for hours in (48, 1))
    values = {
        "died_at": sa.literal(now - timedelta(hours=2), time),
        "reason": sa.literal("rejected"),
        "subject_key": named("key ", n),
        "installation_id": named("icfg_", n % INSTALLATIONS),
        "type": sa.literal("resource.updated"),
        "resource_id": named("db_", n),
        "events": sa.literal(1),
        "first_event_id": n,
        "last_event_id": n,
        "first_created_at": sa.literal(now, time),
        "attempts": sa.literal(1),
        "last_status": sa.literal(400),
        "last_error": named("no plan plan_", n),
        "resolved_at": sa.case((is_resolved & is_old, long_ago), (is_resolved, recently)),
        "resolution": sa.case((is_resolved & is_old, "superseded"), (is_resolved, "replayed")),
    }
    rows = sa.select(*(value.label(name) for name, value in values.items()))
    rows = rows.select_from(numbers(10**5)).where(n < ROWS).order_by("n")
    with database.engine.begin() as connection:
        connection.execute(sa.insert(dead_letter).from_select(list(values), rows))


ONE, PREFIX = "icfg_0", "no plan plan_"
READINGS: dict[str, Callable[[Database], object]] = {
    "list": lambda database: list_dead_letters(database, Filter(), LIMIT),
    "list a page": lambda database: list_dead_letters(database, Filter(before=ROWS // 2), LIMIT),
    "list a cause": lambda database: list_dead_letters(database, Filter(status=400, error_prefix=PREFIX), LIMIT),
    "causes": lambda database: causes(database, Filter()),
    "causes of one": lambda database: causes(database, Filter(installation_id=ONE)),
    "plan": lambda database: plan(database, Filter()),
    "plan for a cause": lambda database: plan(database, Filter(reason=DeadLetterReason.REJECTED, error_prefix=PREFIX)),
    "plan for the oldest": lambda database: plan(database, Filter(), for_replay=True, oldest=LIMIT),
    "aftermath": lambda database: aftermath(database, Replays(since=database.now() - timedelta(days=1)), limit=LIMIT),
    "resolutions": lambda database: group_resolutions(database, LIMIT, SCAN_LIMIT),
    "aftermath of ids": lambda database: aftermath(database, Replays(Filter(ids=range(ROWS - LIMIT, ROWS)))),
    "aftermath of one": lambda database: aftermath(database, Replays(Filter(installation_id="icfg_1"))),
}


@pytest.fixture
def filled(database: Database) -> Database:
    fill(database)
    analyze(database)
    return database


def test_each_statement_reads_the_rows_that_it_needs_and_no_others(filled: Database) -> None:
    max_rows = MAX_READ[filled.dialect.name]
    for name, read in READINGS.items():
        with explaining(filled) as plans:
            read(filled)
        assert plans, name
        assert [plan for plan in plans if plan.rows_read > max_rows] == [], name
