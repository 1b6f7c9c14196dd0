"""Installations that wait for their turn under the global rate limit."""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
import sqlalchemy as sa

from dispatcher.outbox.tables import dead_letter, delivery, installation
from dispatcher.policy.installation_breaker import BREAKER_FAULTS
from dispatcher.policy.rate_window import RateLimit
from dispatcher.telemetry import CrashBuried, LeaseLost
from tests.worker.simulation import SETTINGS, Simulation

INSTALLATIONS = 16
ONE_A_SECOND = {"global_rate_limit": RateLimit(1, 1.0), "request_timeout": 1.0, "lease": 3.0, "max_attempts": 3}


@pytest.fixture
async def simulation(tmp_path: Path) -> AsyncIterator[Simulation]:
    """Leases are too short for every installation to have its turn."""
    made = Simulation(tmp_path, lambda _now: httpx.Response(201), settings=SETTINGS.model_copy(update=ONE_A_SECOND))
    yield made
    await made.close()


@pytest.mark.parametrize("faults", [0, BREAKER_FAULTS], ids=["healthy", "probed"])
async def test_waiting_for_a_turn_uses_up_no_attempt(simulation: Simulation, faults: int) -> None:
    simulation.change(range(INSTALLATIONS), INSTALLATIONS)
    with simulation.database.engine.begin() as connection:
        rows = [{"installation_id": f"icfg_{number}", "faults": faults} for number in range(INSTALLATIONS)]
        connection.execute(sa.insert(installation), rows)
    await simulation.run_until(2.0 * INSTALLATIONS)
    with simulation.database.read() as connection:
        assert connection.execute(sa.select(delivery)).all() == connection.execute(sa.select(dead_letter)).all() == []
    assert len(simulation.requests) == INSTALLATIONS
    assert simulation.undelivered == []
    assert simulation.reports[CrashBuried] == simulation.reports[LeaseLost] == 0
