"""The model and the real worker do the same work: both by a simulated clock, with the same settings, in batches of SQLite's size."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from dispatcher import store
from dispatcher.database.sqlite import Sqlite
from tests.simulation import fleet, vercel
from tests.simulation.costs import Cost
from tests.simulation.fleet import Fleet
from tests.simulation.server import Server
from tests.simulation.vercel import Weather
from tests.worker.simulation import SETTINGS, Destination, Simulation

OK = httpx.Response(201)
KINDS: dict[str, Callable[[Any], str]] = {
    "collect": lambda collected: "collection" if collected.events else "empty collection",
    "claim": lambda claimed: "claim" if claimed.leased else "empty claim",
    "pull": lambda _: "pull",
    "settle": lambda _: "settlement",
}
COMPARED = ("collection", "empty collection", "claim", "empty claim", "pull", "settlement")


class Immediate(Server):
    """Serves each step at once, as the other simulation does."""

    def run(self, step: str, cost: Cost) -> float:
        super().run(step, cost)
        return self._clock.now


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Counts the steps of the real worker. Requests of both take no time."""
    counted: Counter[str] = Counter()

    def watched(name: str, step: Callable[..., Any]) -> Callable[..., Any]:
        def watching(*arguments: Any, **options: Any) -> Any:
            result = step(*arguments, **options)
            counted[KINDS[name](result)] += 1
            return result

        return watching

    for name in KINDS:
        monkeypatch.setattr(store, name, watched(name, getattr(store, name)))
    monkeypatch.setattr(vercel, "REQUEST_SECONDS", (0.0, 0.0))
    monkeypatch.setattr(fleet, "Server", Immediate)
    return counted


async def run_real(
    directory: Path, destination: Destination, subjects: int, installations: int, end: float
) -> list[int]:
    """Changes the subjects after a second; returns the requests of each minute."""
    real = Simulation(directory, destination)
    await real.run_until(1)
    real.change(range(subjects), installations)
    await real.run_until(end)
    await real.close()
    return [real.started_between(begin, begin + 60) for begin in range(0, int(end), 60)]


def run_model(weather: Weather, subjects: int, installations: int, end: float) -> tuple[Fleet, list[int]]:
    model = Fleet(1, weather, settings=SETTINGS, dialect=Sqlite)
    model.clock.run(1)
    model.change((f"one_{number % installations}", str(number)) for number in range(subjects))
    model.clock.run(end)
    minutes = [sum(model.vercel.requests[begin + second] for second in range(60)) for begin in range(0, int(end), 60)]
    return model, minutes


def compared(steps: Counter[str]) -> dict[str, int]:
    return {step: steps[step] for step in COMPARED}


@pytest.mark.parametrize(("subjects", "installations"), [(1_000, 40), (600, 300)])
async def test_a_drain_takes_the_same_steps(
    tmp_path: Path, steps: Counter[str], subjects: int, installations: int
) -> None:
    requests = await run_real(tmp_path, lambda _now: OK, subjects, installations, 20)
    model, modelled = run_model(Weather(), subjects, installations, 20)
    assert requests == modelled == [subjects]
    assert compared(steps) == compared(model.server.steps)


async def test_the_rate_limit_lets_the_same_requests_through_each_minute(tmp_path: Path, steps: Counter[str]) -> None:
    requests = await run_real(tmp_path, lambda _now: OK, 390, 3, 240)
    model, modelled = run_model(Weather(), 390, 3, 240)
    assert requests == modelled == [180, 180, 30, 0]
    for step in ("collection", "empty collection", "claim", "empty claim"):
        assert steps[step] == model.server.steps[step]


async def test_an_outage_is_probed_equally_often(tmp_path: Path, steps: Counter[str]) -> None:  # noqa: ARG001 (its effect)
    def out(now: float) -> httpx.Response:
        return httpx.Response(503) if now < 600 else OK

    requests = await run_real(tmp_path, out, 200, 20, 720)
    _, modelled = run_model(Weather(outage=(0.0, 600.0)), 200, 20, 720)
    assert sum(requests[10:]) >= 200 <= sum(modelled[10:])
    # The real worker looks every 5 s here, so that each probe may be one look later; the model's gaps are random, the other's not.
    assert 0.6 < sum(requests[1:10]) / sum(modelled[1:10]) < 1.6
