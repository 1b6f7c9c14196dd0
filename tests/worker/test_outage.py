"""Six hours without Vercel, by a simulated clock: no dead letter, no thundering herd afterwards, everything delivered."""

import math
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path

import httpx
import pytest
import sqlalchemy as sa

from dispatcher.outbox.tables import dead_letter
from dispatcher.policy import breaker
from dispatcher.policy.breaker import BURST_SECONDS, FAULTS_TO_OPEN, RAMP_SECONDS, ramp_rate
from tests.worker.simulation import Destination, Simulation

HOUR_SECONDS = 3_600.0
OUTAGE_SECONDS = 6 * HOUR_SECONDS
OUTAGE_BEGIN = 100.0
OUTAGE_END = OUTAGE_BEGIN + OUTAGE_SECONDS
CONCURRENCY = 64
OK = httpx.Response(201)

pytestmark = pytest.mark.timeout(600)  # each is a computation, which other processes may slow down


def unreachable(_now: float) -> httpx.Response:
    raise httpx.ConnectError("connection refused")


def storm(_now: float) -> httpx.Response:
    return httpx.Response(503)


def silence(_now: float) -> httpx.Response:
    raise httpx.ReadTimeout("no answer")


def out(down: Destination) -> Destination:
    """Returns a destination that is down for six hours."""
    return lambda now: down(now) if OUTAGE_BEGIN <= now < OUTAGE_END else OK


def flapping(down: Destination) -> Destination:
    """Returns a destination that for six hours alternates: five minutes down, half a minute up."""
    return lambda now: down(now) if OUTAGE_BEGIN <= now < OUTAGE_END and (now - OUTAGE_BEGIN) % 330 < 300 else OK


@pytest.fixture
def workers() -> int:
    """The number of dispatchers."""
    return 1


@pytest.fixture
async def simulation(tmp_path: Path, workers: int) -> AsyncIterator[Simulation]:
    made = Simulation(tmp_path, lambda _now: OK, workers)
    yield made
    await made.close()


def count_dead_letters(simulation: Simulation) -> int:
    with simulation.database.read() as connection:
        return int(connection.execute(sa.select(sa.func.count()).select_from(dead_letter)).scalar_one())


async def run_through_outage(simulation: Simulation, subjects: int, installations: int) -> None:
    """Changes half of the subjects as the outage begins, the others in the course of it."""
    simulation.change(range(installations), installations)
    await simulation.run_until(OUTAGE_BEGIN)
    simulation.change(range(subjects // 2), installations)
    changed = [subjects // 2]

    def change_some() -> None:
        due = subjects // 2 + math.floor((simulation.now - OUTAGE_BEGIN) / OUTAGE_SECONDS * (subjects - subjects // 2))
        simulation.change(range(changed[0], min(due, subjects)), installations)
        changed[0] = max(changed[0], due)

    await simulation.run_until(OUTAGE_END, change_some)
    simulation.change(range(changed[0], subjects), installations)
    await simulation.run_until(OUTAGE_END + 1.1 * HOUR_SECONDS)  # the longest backoff is an hour


async def change_before_and_after(simulation: Simulation, subjects: int) -> None:
    """Changes all subjects before the outage, as it begins, and as it ends."""
    for until in (OUTAGE_BEGIN, OUTAGE_END, OUTAGE_END + HOUR_SECONDS):
        simulation.change(range(subjects), subjects)
        await simulation.run_until(until)


def assert_no_herd(simulation: Simulation) -> None:
    """Asserts that after each success that ended an outage no second has more requests than the ramp allows."""
    answers = simulation.requests
    for (_, before), (began, after) in pairwise(answers):
        if after and not before and began >= OUTAGE_BEGIN:
            for second in range(int(RAMP_SECONDS)):
                allowed = ramp_rate(second + 1) * (1 + BURST_SECONDS) + 1
                assert simulation.started_between(began + second, began + second + 1) <= allowed


@pytest.mark.nightly
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("down", "subjects", "installations"),
    [
        pytest.param(unreachable, 200, 10, id="few"),
        pytest.param(unreachable, 10_000, 500, id="unreachable"),
        pytest.param(storm, 10_000, 500, id="503 storm"),
        pytest.param(silence, 10_000, 500, id="timeouts"),
    ],
)
async def test_six_hours_of_outage_end_without_a_dead_letter_and_without_a_herd(
    simulation: Simulation, down: Destination, subjects: int, installations: int
) -> None:
    simulation.destination = out(down)
    await run_through_outage(simulation, subjects, installations)
    assert count_dead_letters(simulation) == 0
    assert simulation.undelivered == []
    opened = simulation.started_between(OUTAGE_BEGIN, OUTAGE_BEGIN + 10)
    assert FAULTS_TO_OPEN <= opened <= FAULTS_TO_OPEN + CONCURRENCY + 10
    assert simulation.started_between(OUTAGE_BEGIN + 120, OUTAGE_END) <= OUTAGE_SECONDS / 7  # only probes
    assert_no_herd(simulation)


@pytest.mark.nightly
@pytest.mark.timeout(900)
async def test_six_hours_of_flapping_end_without_a_dead_letter(simulation: Simulation) -> None:
    simulation.destination = flapping(storm)
    await run_through_outage(simulation, 10_000, 500)
    assert count_dead_letters(simulation) == 0
    assert simulation.undelivered == []
    assert_no_herd(simulation)


# Numbers of dispatchers and of waiting subjects.
FEW = [
    pytest.param(workers, subjects, marks=tier)
    for workers, subjects, tier in (
        (1, 1, ()),
        (1, 2, pytest.mark.nightly),
        (1, 3, pytest.mark.nightly),
        (4, 1, pytest.mark.nightly),
        (4, 2, pytest.mark.nightly),
        (4, 3, pytest.mark.nightly),
    )
]


@pytest.mark.parametrize(("workers", "subjects"), FEW)
@pytest.mark.parametrize(
    "down",
    [pytest.param(unreachable, marks=pytest.mark.nightly), storm, pytest.param(silence, marks=pytest.mark.nightly)],
)
async def test_with_few_subjects_and_many_dispatchers_too_an_outage_causes_no_dead_letter(
    simulation: Simulation, down: Destination, subjects: int
) -> None:
    simulation.destination = out(down)
    await change_before_and_after(simulation, subjects)
    assert (count_dead_letters(simulation), simulation.undelivered) == (0, [])


@pytest.mark.nightly
@pytest.mark.parametrize(("workers", "subjects"), FEW)
async def test_with_few_subjects_and_many_dispatchers_too_flapping_causes_no_dead_letter(
    simulation: Simulation, subjects: int
) -> None:
    simulation.destination = flapping(storm)
    await change_before_and_after(simulation, subjects)
    assert (count_dead_letters(simulation), simulation.undelivered) == (0, [])


@pytest.mark.parametrize("workers", [1, pytest.param(4, marks=pytest.mark.nightly)])
async def test_a_resource_that_always_fails_among_others_that_succeed_becomes_a_dead_letter(
    simulation: Simulation,
) -> None:
    """The others change once a minute, in installations of their own."""
    simulation.failing.add("db_0")
    simulation.change([0], 1)
    for minute in range(6 * 60):
        simulation.change([1 + minute % 5], 6)
        await simulation.run_until(60.0 * (minute + 1))
        if count_dead_letters(simulation):
            break
    assert count_dead_letters(simulation) == 1
    assert [one for one in simulation.undelivered if one != "db_0"] == []


async def test_without_the_breaker_the_same_outage_ends_in_dead_letters(
    simulation: Simulation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(breaker, "FAULTS_TO_OPEN", math.inf)
    monkeypatch.setattr(breaker.Breaker, "is_suspected", False)
    simulation.destination = out(storm)
    await run_through_outage(simulation, 20, 5)
    assert count_dead_letters(simulation) > 0
