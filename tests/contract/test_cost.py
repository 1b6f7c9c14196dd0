"""What the dispatcher does costs the same however much waits: the plans of its statements, the rows they read, the time they take."""

import time
from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest
from sqlalchemy import make_url

from dispatcher import store
from dispatcher.database import schema
from dispatcher.database.transactions import Database, open_database
from dispatcher.inspection.backlog import measure
from dispatcher.policy.decision import Action, Decision, PauseReason
from dispatcher.policy.outcome import Outcome, OutcomeKind
from tests.contract.crowd import INSTALLATIONS as INSTALLATIONS_THERE
from tests.contract.crowd import analyze, crowd, write_events
from tests.contract.plans import explaining
from tests.contract.steps import DELIVERED, LEASE, REJECTED, claim

# Filling a database takes half a minute.
pytestmark = [pytest.mark.nightly, pytest.mark.timeout(600)]

EVENTS, INSTALLATIONS = 400, 100
ROUNDS, ENOUGH = 15, 10_000
MOST_READ = 2_000
"""Rows that all the steps of a plan may read: a small multiple of the batch, and nothing beside a million."""
AT_MOST = {"claim": 4, "pull": 4, "collect": 6, "settle": 6}
"""Times as long, on a busy machine too: reading everything would take a hundred times as long. The last two write to pages all over the
tables, which the servers of the tests hold in small caches.
"""
DECISIONS = (DELIVERED, DELIVERED, REJECTED, Decision(Action.RETRY, delay=86_400))
KIND = {
    Action.DELIVERED: OutcomeKind.DELIVERED,
    Action.BURY: OutcomeKind.REJECTED,
    Action.RETRY: OutcomeKind.FAILED,
}


class Stopwatch:
    """Seconds since the last lap."""

    def __init__(self) -> None:
        self._at = time.perf_counter()

    def lap(self) -> float:
        now = time.perf_counter()
        self._at, began = now, self._at
        return now - began


@pytest.fixture(scope="module", params=["sqlite", "postgresql", "mysql"])
def place(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], Database]]:
    """Opens a database of this name, with fresh tables, at the server of the tests; it is gone afterwards."""
    opened: list[Database] = []

    def fresh(name: str) -> Database:
        database = _open(request, tmp_path_factory, name)
        schema.migrate(database)
        schema.downgrade(database)  # of what an interrupted run left
        schema.migrate(database)
        opened.append(database)
        return database

    yield fresh
    for database in opened:
        schema.downgrade(database)
        database.close()
        if request.param == "postgresql":
            _execute(str(request.getfixturevalue("postgresql_url")), f"DROP SCHEMA {database.schema} CASCADE")
        if request.param == "mysql":
            _execute(str(request.getfixturevalue("mysql_url")), f"DROP DATABASE {database.engine.url.database}")


def _open(request: pytest.FixtureRequest, directory: pytest.TempPathFactory, name: str) -> Database:
    match request.param:
        case "postgresql":
            url = str(request.getfixturevalue("postgresql_url"))
            _execute(url, f"CREATE SCHEMA IF NOT EXISTS {name}")
            return open_database(url, name)
        case "mysql":
            url = str(request.getfixturevalue("mysql_url"))
            own = make_url(url).set(database=f"{make_url(url).database}_{name}")  # a server may serve other tests too
            _execute(url, f"CREATE DATABASE IF NOT EXISTS {own.database}")
            return open_database(own.render_as_string(hide_password=False))
        case _:
            return open_database(f"sqlite:///{directory.mktemp(name)}/test.db")


def _execute(url: str, statement: str) -> None:
    database = open_database(url)
    with database.engine.begin() as connection:
        connection.exec_driver_sql(statement)
    database.close()


@pytest.fixture(scope="module")
def crowded(place: Callable[[str], Database]) -> Database:
    database = place("crowded")
    crowd(database)
    return database


@pytest.fixture(scope="module")
def empty(place: Callable[[str], Database]) -> Database:
    return place("uncrowded")


@pytest.mark.parametrize("analyzed", [False, True], ids=["old statistics", "fresh statistics"])
def test_a_statement_reads_the_rows_that_it_needs_by_an_index(crowded: Database, analyzed: bool) -> None:
    if analyzed:
        analyze(crowded)
    with explaining(crowded) as plans:
        store.look(crowded, store.LOWEST_ID, store.LONG_AGO)
        for _ in journey(crowded):
            pass
        store.prune(crowded, timedelta(days=7), timedelta(days=7))
    assert len(plans) >= 20
    assert [plan for plan in plans if plan.scans or plan.rows_read > MOST_READ] == []


def test_a_step_takes_no_longer_where_a_million_deliveries_wait(crowded: Database, empty: Database) -> None:
    write_events(empty, ENOUGH)
    analyze(crowded)
    analyze(empty)
    taken: dict[str, list[list[float]]] = {}
    for _ in range(ROUNDS):
        for database in (crowded, empty):
            for step, seconds in journey(database):
                taken.setdefault(step, [[], []])[database is empty].append(seconds)
    # The quickest of each: what else goes on at this machine makes single rounds slower, and none quicker.
    ratios = {step: min(full) / min(bare) for step, (full, bare) in taken.items()}
    assert all(ratio <= AT_MOST[step] for step, ratio in ratios.items()), ratios


def journey(database: Database) -> Iterator[tuple[str, float]]:
    """Each step of the protocol on the same events, with every decision, and how many seconds it took."""
    clock = Stopwatch()
    assert store.collect(database, EVENTS).events == EVENTS
    yield "collect", clock.lap()
    leased = claim(database, installations=INSTALLATIONS)
    assert sum(len(lease.deliveries) for lease in leased) == EVENTS
    yield "claim", clock.lap()
    store.pull(database, {lease.installation_id: lease.token for lease in leased}, 8, LEASE)
    yield "pull", clock.lap()
    answers = [
        store.Answer(one, lease.token, Outcome(KIND[decision.action]), decision)
        for lease in leased
        for one, decision in zip(lease.deliveries, DECISIONS, strict=True)
    ]
    states = [store.InstallationState(lease.installation_id, lease.token, release=True) for lease in leased]
    clock.lap()
    assert store.settle(database, answers, states, LEASE).lost == frozenset()
    yield "settle", clock.lap()


def test_the_gauges_read_no_more_than_so_many_deliveries(crowded: Database) -> None:
    with explaining(crowded) as plans:
        backlog = measure(crowded, limit=1_000)
    assert not backlog.complete
    beyond = 1.2 * INSTALLATIONS_THERE
    assert [plan for plan in plans if plan.rows_read > beyond] == []


def test_pauses_and_breakers_are_counted_in_an_index(crowded: Database) -> None:
    analyze(crowded)
    with explaining(crowded) as plans:
        assert measure(crowded, limit=1_000).paused_installations == {PauseReason.UNAUTHORIZED: 1_000}
    counting = [plan for plan in plans if "delivery" not in plan.statement and "vercel_installation" in plan.statement]
    assert {"pause_reason" in plan.statement for plan in counting} == {True, False}
    assert [plan for plan in counting if "vercel_installation" in str(plan.scans) or plan.rows_read > MOST_READ] == []
