"""The dispatcher's steps cost the same however many deliveries wait: the plans of the statements, the rows they read, their time."""

import time
from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest

from dispatcher import store
from dispatcher.database.transactions import Database
from dispatcher.inspection import installation_detail, installation_list
from dispatcher.inspection.backlog import measure
from dispatcher.inspection.checks import attempts
from dispatcher.inspection.installation_detail import find_installation
from dispatcher.inspection.installation_list import Key, View, count_views, list_installations
from dispatcher.inspection.minutes import outcomes_by_minute
from dispatcher.inspection.request_groups import group_requests
from dispatcher.inspection.requests import RequestFilter, newest_requests
from dispatcher.policy.decision import Action, Decision, PauseReason
from dispatcher.policy.outcome import Outcome, OutcomeKind
from dispatcher.policy.rate_window import RateLimit
from tests.contract.crowd import INSTALLATIONS as INSTALLATIONS_IN_CROWD
from tests.contract.crowd import analyze, crowd, forget_events, write_events
from tests.contract.places import places
from tests.contract.plans import explaining
from tests.contract.steps import DELIVERED, GRACES, LEASE, REJECTED, claim

# Filling a database takes half a minute.
pytestmark = [pytest.mark.nightly, pytest.mark.timeout(600)]

EVENTS, INSTALLATIONS = 400, 100
ROUNDS, ENOUGH_EVENTS = 15, 10_000
MAX_ROWS_READ = 3_000
"""Rows that all steps of a plan together may read: a small multiple of the batch, and very little compared with a million."""
MAX_RATIOS = {"claim": 4, "pull": 4, "collect": 6, "settle": 6}
"""How many times as long each step may take, even on a busy machine; reading everything would take a hundred times as long. The last
two write to pages all over the tables, which the test servers hold in small caches.
"""
DECISIONS = (DELIVERED, DELIVERED, REJECTED, Decision(Action.RETRY, delay=86_400))
KIND = {
    Action.DELIVERED: OutcomeKind.DELIVERED,
    Action.BURY: OutcomeKind.REJECTED,
    Action.RETRY: OutcomeKind.FAILED,
}


class Stopwatch:
    """Measures laps in seconds."""

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
    with places(request, tmp_path_factory) as place:
        yield place


@pytest.fixture(scope="module")
def crowded(place: Callable[[str], Database]) -> Database:
    database = place("crowded")
    crowd(database)
    return database


@pytest.fixture(scope="module")
def empty(place: Callable[[str], Database]) -> Database:
    return place("uncrowded")


@pytest.mark.parametrize("statistics", ["old", "fresh", "of an empty queue"])
def test_each_statement_reads_the_rows_that_it_needs_through_an_index(crowded: Database, statistics: str) -> None:
    if statistics != "old":
        analyze(crowded)
    if statistics == "of an empty queue":
        forget_events(crowded)
    with explaining(crowded) as plans:
        store.look(crowded, store.LOWEST_ID, store.LONG_AGO)
        for _ in journey(crowded):
            pass
        store.prune(crowded, timedelta(days=7), timedelta(days=7))
    assert len(plans) >= 20
    assert [plan for plan in plans if plan.scans or plan.rows_read > MAX_ROWS_READ] == []


def test_a_step_takes_no_longer_where_a_million_deliveries_wait(crowded: Database, empty: Database) -> None:
    write_events(empty, ENOUGH_EVENTS)
    analyze(crowded)
    analyze(empty)
    taken: dict[str, list[list[float]]] = {}
    for _ in range(ROUNDS):
        for database in (crowded, empty):
            for step, seconds in journey(database):
                taken.setdefault(step, [[], []])[database is empty].append(seconds)
    # Compares the fastest rounds: other processes on this machine make single rounds slower, never faster.
    ratios = {step: min(full) / min(bare) for step, (full, bare) in taken.items()}
    assert all(ratio <= MAX_RATIOS[step] for step, ratio in ratios.items()), ratios


def journey(database: Database) -> Iterator[tuple[str, float]]:
    """Takes each step of the protocol on the same events, with every decision; yields each step and its seconds."""
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


def test_the_gauges_read_a_limited_number_of_deliveries(crowded: Database) -> None:
    with explaining(crowded) as plans:
        backlog = measure(crowded, limit=1_000)
    assert not backlog.complete
    max_rows = 1.2 * INSTALLATIONS_IN_CROWD
    assert [plan for plan in plans if plan.rows_read > max_rows] == []


def test_what_the_attempts_say_is_read_from_a_limited_number_of_rows(crowded: Database) -> None:
    analyze(crowded)
    with explaining(crowded) as plans:
        (found,) = attempts.check_attempts(crowded)
    assert "installations are refused by Vercel" in found.what
    assert len(plans) >= 5
    max_rows = 3 * attempts.MAX_SCANNED_ROWS  # each is read, limited and counted
    assert [plan for plan in plans if plan.rows_read > max_rows] == []


def test_pauses_and_breakers_are_counted_through_an_index(crowded: Database) -> None:
    analyze(crowded)
    with explaining(crowded) as plans:
        assert measure(crowded, limit=1_000).paused_installations == {PauseReason.UNAUTHORIZED: 1_000}
    counting = [plan for plan in plans if "delivery" not in plan.statement and "vercel_installation" in plan.statement]
    assert {"pause_reason" in plan.statement for plan in counting} == {True, False}
    assert [
        plan for plan in counting if "vercel_installation" in str(plan.scans) or plan.rows_read > MAX_ROWS_READ
    ] == []


SCAN_LIMIT = 1_000


@pytest.mark.parametrize("prefix", ["", "icfg_0"])
@pytest.mark.parametrize("view", View)
def test_a_list_of_installations_reads_a_limited_number_of_rows(
    crowded: Database, monkeypatch: pytest.MonkeyPatch, view: View, prefix: str
) -> None:
    """The limit, the page, and at most a thousand deliveries of each installation on it."""
    monkeypatch.setattr(installation_list, "MAX_SCANNED_ROWS", SCAN_LIMIT)
    analyze(crowded)
    with explaining(crowded) as plans:
        page = list_installations(crowded, GRACES, 50, view, prefix)
        for one in page[-1:]:
            list_installations(crowded, GRACES, 50, view, prefix, after=Key.of(one, view))
        count_views(crowded, prefix)
    assert plans
    # Only with the collation "C" does PostgreSQL find a prefix through an index.
    reads_all = prefix and view is View.ALL and crowded.dialect.name == "postgresql"
    max_rows = 1.2 * INSTALLATIONS_IN_CROWD if reads_all else 8 * SCAN_LIMIT
    assert [plan for plan in plans if plan.rows_read > max_rows] == []


PAGE, OF_EACH = 100, 5
"""The rows of a page, and the deliveries of each installation in the crowd but the first."""
MAX_READ_FOR_A_PAGE = 2 * SCAN_LIMIT + PAGE * (3 + 2 * OF_EACH)
"""Those that are searched are read and then filtered; those of the page are looked up, and their deliveries are counted twice: up to the
limit, and all of them. On SQLite, which counts instructions, in hundreds, it is a generous limit.
"""


@pytest.mark.parametrize("view", [View.ALL, View.PAUSED])
def test_a_page_in_the_middle_of_a_list_reads_the_rows_that_are_searched_and_those_that_it_shows(
    crowded: Database, monkeypatch: pytest.MonkeyPatch, view: View
) -> None:
    """Also where installations that are not paused are the first of the table."""
    monkeypatch.setattr(installation_list, "MAX_SCANNED_ROWS", SCAN_LIMIT)
    analyze(crowded)
    middle = list_installations(crowded, GRACES, SCAN_LIMIT // 2, view)[-1]
    with explaining(crowded) as plans:
        page = list_installations(crowded, GRACES, PAGE, view, after=Key.of(middle, view))
    assert len(page) == PAGE
    assert plans
    assert [
        plan for plan in plans if "vercel_installation" in str(plan.scans) or plan.rows_read > MAX_READ_FOR_A_PAGE
    ] == []


def test_the_detail_of_an_installation_reads_a_limited_number_of_its_deliveries(
    crowded: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(installation_detail, "MAX_COUNTED_DELIVERIES", SCAN_LIMIT)
    analyze(crowded)
    with explaining(crowded) as plans:
        found = find_installation(crowded, "icfg_0", GRACES, RateLimit(60, 60.0), 10)
    assert found is not None
    assert (found.waiting, found.installation.deliveries, len(found.deliveries)) == (SCAN_LIMIT, 1_000, 10)
    assert [plan for plan in plans if plan.rows_read > 3 * SCAN_LIMIT] == []


def test_requests_are_read_from_a_limited_part_of_the_log(crowded: Database) -> None:
    analyze(crowded)
    since = crowded.now() - timedelta(days=1)
    with explaining(crowded) as plans:
        for wanted in (RequestFilter(), RequestFilter(failed=True), RequestFilter(failed=True, since=since)):
            newest_requests(crowded, wanted, 20, SCAN_LIMIT)
            group_requests(crowded, wanted, SCAN_LIMIT)
        newest_requests(crowded, RequestFilter("icfg_5"), 20)
        group_requests(crowded, RequestFilter("icfg_5"), SCAN_LIMIT)
        outcomes_by_minute(crowded, 60, SCAN_LIMIT)
    assert len(plans) >= 70
    assert [plan for plan in plans if plan.rows_read > 4 * SCAN_LIMIT] == []
