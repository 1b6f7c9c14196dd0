"""The real steps on real databases in any order that Hypothesis generates. Without a guard it finds the resulting fault."""

from collections.abc import Sequence
from functools import cache
from types import ModuleType
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test
from sqlalchemy import Engine
from sqlalchemy.engine.interfaces import DBAPIConnection

from dispatcher.database.transactions import Database
from dispatcher.outbox.events import Event
from tests.contract.test_guards import CLAIMING, CONCLUDING, WITHOUT_VERSION
from tests.contract.test_guards import _without_token as without_token
from tests.protocol.machine import EVENTS, Machine

# The same examples in every run, so that no run fails by chance.
STEADY = settings(
    derandomize=True,
    database=None,
    deadline=None,
    stateful_step_count=40,
    phases=[Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
)

# With only one subject, consecutive steps are about the same one; with several, the search may end before it finds the fault.
ONE_SUBJECT = EVENTS[:1]

# These tests are not about durability, so commits do not wait for the disk.
NO_WAITING = {"sqlite": "PRAGMA synchronous = OFF", "postgresql": "SET synchronous_commit = off"}


def search(
    database: Database, partner: Engine, examples: int, events: Sequence[Event] = EVENTS, **options: Any
) -> None:
    """Raises AssertionError for the first sequence of steps that ends in a fault, or the database's error if it refuses a step."""

    class OnThisDatabase(Machine):
        def __init__(self) -> None:
            super().__init__(database, partner, events)

    run_state_machine_as_test(OnThisDatabase, settings=settings(STEADY, max_examples=examples, **options))


@pytest.fixture(autouse=True)
def quick_commits(database: Database, partner: Engine) -> None:
    """Makes commits quick on every connection opened from now on."""
    statement = NO_WAITING.get(database.dialect.name)

    def execute(opened: DBAPIConnection, _record: object) -> None:
        opened.cursor().execute(statement)
        opened.commit()

    for engine in (database.engine, partner) if statement else ():
        engine.dispose()
        sa.event.listen(engine, "connect", execute)


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("server", "examples"),
    [
        ("sqlite", 30),
        pytest.param("postgresql", 15, marks=pytest.mark.gate),
        pytest.param("mysql", 15, marks=pytest.mark.gate),
        pytest.param("sqlite", 300, marks=pytest.mark.nightly),
        pytest.param("postgresql", 200, marks=pytest.mark.nightly),
        pytest.param("postgresql-18", 100, marks=[pytest.mark.nightly, pytest.mark.variant]),
        pytest.param("mysql", 200, marks=pytest.mark.nightly),
    ],
    indirect=["server"],
)
def test_no_order_of_steps_loses_or_strands_anything(database: Database, partner: Engine, examples: int) -> None:
    search(database, partner, examples)


@pytest.mark.nightly  # in the gate, tests/contract/test_guards.py shows what each guard prevents
@pytest.mark.timeout(900)
@pytest.mark.parametrize("server", ["sqlite", "postgresql", "mysql"], indirect=True)
@pytest.mark.parametrize(
    ("module", "name", "without"),
    [(CONCLUDING, "VERSION", WITHOUT_VERSION), (CLAIMING, "_ours", cache(without_token))],
    ids=["version", "token"],
)
def test_without_a_guard_the_search_finds_the_fault(
    database: Database, partner: Engine, monkeypatch: pytest.MonkeyPatch, module: ModuleType, name: str, without: Any
) -> None:
    monkeypatch.setattr(module, name, without)
    fault = r"last look is older|events appeared|under a lost lease|a lost lease was honoured|lease_is_whole"
    with pytest.raises((AssertionError, sa.exc.DBAPIError), match=fault):
        search(database, partner, 2_000, ONE_SUBJECT, phases=[Phase.generate])  # at most 406 were needed
