"""What the pages of the console cost in a crisis does not grow with the tables: their statements, and the plans of these."""

import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, closing
from functools import cache

import pytest
import sqlalchemy as sa

from dispatcher.console import reading, shared
from dispatcher.console.reading import STATEMENT_SECONDS
from dispatcher.database.transactions import Database, open_database
from dispatcher.outbox.tables import attempt, dead_letter, delivery, installation, outbox
from tests.benchmarks.table import percentile
from tests.console.conftest import Console, Start, words
from tests.console.crisis import CRISIS, SMALL, Sizes, strike
from tests.console.test_actions import act, ended
from tests.contract.places import places
from tests.contract.plans import Plan, explaining

# Filling a database takes minutes.
pytestmark = [pytest.mark.nightly, pytest.mark.timeout(1800)]

PATIENT_SECONDS = 12 * STATEMENT_SECONDS
"""For a statement of a test: the machine may be busy, and a statement is slower while it is explained."""
MAX_READ = {"postgresql": 310_000, "mysql": 310_000, "sqlite": 60_000}
"""The rows that all steps of one statement may read: of up to three steps `MAX_COUNTED_ROWS` (to count the deliveries in the order of their
installations: the installation, its delivery, and both). On SQLite, hundreds of its instructions: up to 54 for each such row, of which the
page of an operation checks each event of the outbox. What this misses, the rows show on the other databases.
"""
MAX_SCANNED = MAX_READ | {"sqlite": 25_000}
"""The same for a statement that begins to read a table that grows. A whole long table has a million rows, and takes SQLite 30,000."""
MAX_READ_OF_ONE = {"postgresql": 510_000, "mysql": 510_000, "sqlite": 65_000}
"""The same for pages that count half a million deliveries of one installation exactly, once and along an index: a purge buries them."""
COUNT_ALL_OF_ONE = {f"actions/{action}?installation=icfg_0" for action in ("pause", "resume", "purge")}
READS_ALL_ON_POSTGRESQL = {"dead-letters?since=1h"}
"""No index has the time. PostgreSQL would have to look up 100,000 unresolved dead letters among a million, and reads all of them once
instead. This statement has a limit and, as each one, `STATEMENT_SECONDS`.
"""
Visit = Callable[[Database], Awaitable[Console]]

GROWING = (attempt, dead_letter, delivery, installation, outbox)
ROUNDS, ROUND_SECONDS = 20, 3.0
"""A page is opened this often, but not after this time."""
PAGES = (
    "",
    "dead-letters",
    "dead-letters?reason=gone",
    "dead-letters?installation=icfg_0",
    "dead-letters?since=1h",
    "dead-letters?view=list",
    "dead-letters?view=list&before={middle}",
    "dead-letters?view=list&limit=500",
    "dead-letters?show=all",
    "dead-letters?show=all&before={middle}",
    "dead-letters?reason=rejected&status=400&error=billing+plan+plan_",
    "dead-letters?resource=db_7",
    "dead-letters/11",
    "installations?show=all",
    "installations?show=all&prefix=icfg_1",
    "installations?show=paused",
    "installations?show=paused&prefix=icfg_1",
    "installations?show=failing",
    "installations?show=behind",
    "installations/icfg_0",
    "installations/icfg_7",
    "explain",
    "explain?id=icfg_0",
    "explain?id=db_7",
    "explain?id=db_0&installation=icfg_0",
    "explain?id=unknown",
    "requests",
    "requests?outcome=failing",
    "requests?status=418",
    "requests?installation=icfg_7",
    "requests?installation=icfg_7&status=418",
    "requests?resource=db_7",
    "requests?since=1h",
    "requests?outcome=failing&since=48h&until=1h",
    "system",
    "actions/replay",
    "actions/replay?oldest=100",
    "actions/replay?reason=rejected&status=400&error=billing+plan+plan_",
    "actions/replay?installation=icfg_0",
    "actions/discard",
    "actions/discard?since=24h",
    "actions/pause?installation=icfg_0",
    "actions/resume?installation=icfg_0",
    "actions/purge?installation=icfg_0",
    "operations",
)


@pytest.fixture(scope="module", params=["sqlite", "postgresql", "mysql"])
def place(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], Database]]:
    with places(request, tmp_path_factory) as place:
        yield place


@pytest.fixture(scope="module")
def stricken(place: Callable[[str], Database]) -> Callable[[Sizes], Database]:
    """Returns a database in a crisis of this size."""

    @cache
    def strike_(sizes: Sizes) -> Database:
        database = place("crisis" if sizes is CRISIS else "small_crisis")
        strike(database, sizes)
        return database

    return strike_


@pytest.fixture
def visit(start: Start) -> Iterator[Visit]:
    """Starts consoles for operators, with more time for each statement."""
    with ExitStack() as stack:

        async def open_console(database: Database) -> Console:
            url = database.engine.url.render_as_string(hide_password=False)
            limited = open_database(url, database.schema, statement_seconds=PATIENT_SECONDS, read_only=True)
            console = await start(opened=stack.enter_context(closing(limited)), may_write=True)
            console.browser.timeout = 2 * PATIENT_SECONDS
            return console

        yield open_console


async def test_no_page_makes_more_statements_in_a_crisis_and_each_reads_a_limited_number_of_rows(
    visit: Visit, stricken: Callable[[Sizes], Database], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (reading, shared):  # each page reads everything
        monkeypatch.setattr(module, "SHARED_SECONDS", 0.0)
    few, many = [await plans_of(await visit(stricken(sizes)), sizes) for sizes in (SMALL, CRISIS)]
    assert {path: len(plans) for path, plans in many.items() if len(plans) > len(few[path])} == {}
    dialect = stricken(CRISIS).dialect.name
    too_much = [(path, one) for path, plans in many.items() for one in plans if reads_too_much(path, one, dialect)]
    assert [(path, one.rows_read, one.scans, one.statement) for path, one in too_much] == []


@pytest.mark.parametrize("table", [attempt, dead_letter, delivery], ids=str)
def test_a_statement_that_reads_a_long_table_would_be_noticed(
    stricken: Callable[[Sizes], Database], table: sa.Table
) -> None:
    database = stricken(CRISIS)
    none = sa.select(table.c.installation_id).where(table.c.events == 0)
    with explaining(database) as plans, database.read() as connection:
        for statement in (none, none.limit(10)):
            assert connection.execute(statement).all() == []
    assert plans
    for path in PAGES if table is not dead_letter else set(PAGES) - READS_ALL_ON_POSTGRESQL:
        assert [plan for plan in plans if not reads_too_much(path, plan, database.dialect.name)] == []


async def plans_of(console: Console, sizes: Sizes) -> dict[str, list[Plan]]:
    """The plans of the statements of each page, and of the page of an operation."""
    found: dict[str, list[Plan]] = {}
    with explaining(console.database) as plans:
        for path in PAGES:
            plans.clear()
            page = await console.get(path.format(middle=sizes.dead_letters // 2))
            assert page.status_code == (404 if "unknown" in path else 200), f"{path}: {words(page.text)}"
            found[path] = list(plans)
        operation = await act(console, "actions/replay?oldest=100", note="the token source is repaired")
        await ended(console, operation)
        plans.clear()
        assert "100" in words((await console.browser.get(operation.url)).text)
        found["an operation"] = list(plans)
    return found


def reads_too_much(path: str, plan: Plan, dialect: str) -> bool:
    """Whether a statement of the page reads more rows than it may, or a table that grows without a limit of its own."""
    if any(table.name in scan for table in GROWING for scan in plan.scans):
        return "LIMIT" not in plan.statement or plan.rows_read > max_scanned(path, plan, dialect)
    return plan.rows_read > (MAX_READ_OF_ONE if path in COUNT_ALL_OF_ONE else MAX_READ)[dialect]


def max_scanned(path: str, plan: Plan, dialect: str) -> float:
    """Returns the limit for a statement that begins to read a table that grows."""
    if dialect == "postgresql" and path in READS_ALL_ON_POSTGRESQL and plan.scans == [dead_letter.name]:
        return 1.01 * CRISIS.dead_letters  # several processes report their average
    return MAX_SCANNED[dialect]


async def test_the_chart_of_two_thousand_requests_a_second_is_capped_and_says_so(
    visit: Visit, stricken: Callable[[Sizes], Database]
) -> None:
    text = words((await (await visit(stricken(CRISIS))).get("")).text)
    assert "up to ≥ 2,000;" in text
    assert "a dashed top: there may be more" in text


async def test_the_time_of_each_page(
    visit: Visit, stricken: Callable[[Sizes], Database], capsys: pytest.CaptureFixture[str]
) -> None:
    """It is only printed: a busy machine takes longer."""
    database = stricken(CRISIS)
    console = await visit(database)
    with capsys.disabled():
        print(f"\n{database.dialect.name}: the 95th percentile, and the number of measurements")  # noqa: T201 (a report)
    for path in PAGES:
        taken = await open_often(console, path.format(middle=CRISIS.dead_letters // 2))
        with capsys.disabled():
            print(f"{1000 * percentile(taken, 95):8.0f} ms {len(taken):3}  /{path}")  # noqa: T201


async def open_often(console: Console, path: str) -> list[float]:
    """Returns the seconds that a page took each time. The blocks of *Now* are shared for two seconds, as always."""
    taken: list[float] = []
    while len(taken) < ROUNDS and sum(taken) < ROUND_SECONDS:
        began = time.perf_counter()
        await console.get(path)
        taken.append(time.perf_counter() - began)
    return taken
