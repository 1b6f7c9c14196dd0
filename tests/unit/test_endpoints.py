"""The ops endpoints: liveness, readiness and the metrics."""

import httpx
import pytest

from dispatcher.service.endpoints import ops_app
from dispatcher.service.health import LIVE_SECONDS, READY_SECONDS, Health
from dispatcher.telemetry import (
    Metrics,
    StepFailed,
    Ticked,
    WritesAccepted,
    listen,
)

BROKEN = StepFailed(
    "tick", "the database reported an error (DataError)", "the database reported an error (DataError): icfg_secret"
)


class Ops:
    """The application and its listeners, with a clock that the test moves."""

    def __init__(self) -> None:
        self.now = 0.0
        self.health = Health(lambda: self.now)
        self.metrics = Metrics("1.2.3")
        self.report = listen(self.health, self.metrics)
        app = ops_app(self.health, self.metrics.registry)
        self.client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://ops")


@pytest.fixture
async def ops() -> Ops:
    return Ops()


async def test_it_is_live_while_ticks_come_even_bad_ones(ops: Ops) -> None:
    ops.now = LIVE_SECONDS - 1
    assert (await ops.client.get("/livez")).status_code == 200
    ops.report(BROKEN)
    ops.now += LIVE_SECONDS - 1
    assert (await ops.client.get("/livez")).status_code == 200
    ops.report(StepFailed("gauges", "ValueError", "ValueError: no"))  # the tick is still stuck
    ops.now += 1
    assert (await ops.client.get("/livez")).status_code == 503


async def test_it_is_ready_while_ticks_go_through_and_otherwise_gives_the_reason(ops: Ops) -> None:
    async def readiness() -> tuple[int, str | None]:
        answer = await ops.client.get("/readyz")
        return answer.status_code, answer.json()["reason"]

    assert await readiness() == (503, "no tick has gone through yet")
    ops.report(Ticked(0))
    assert await readiness() == (200, None)
    ops.report(BROKEN)
    assert await readiness() == (503, "tick: the database reported an error (DataError)")
    ops.report(Ticked(0))
    ops.report(StepFailed("gauges", "ValueError", "ValueError: no"))
    assert await readiness() == (200, None)
    ops.report(StepFailed("heartbeat", "the database takes no writes", "the database takes no writes: icfg_secret"))
    ops.report(Ticked(0))
    assert await readiness() == (503, "heartbeat: the database takes no writes")
    ops.report(WritesAccepted())
    assert await readiness() == (200, None)
    ops.now = READY_SECONDS
    assert await readiness() == (503, "the last tick succeeded 30 s ago")
    ops.health.stopping = True
    assert await readiness() == (503, "the service is stopping")


async def test_the_metrics_have_the_format_of_the_accept_header(ops: Ops) -> None:
    ops.report(Ticked(5))
    plain = await ops.client.get("/metrics")
    assert plain.headers["content-type"].startswith("text/plain")
    assert "dispatcher_in_flight 5.0" in plain.text.splitlines()
    open_metrics = await ops.client.get("/metrics", headers={"accept": "application/openmetrics-text"})
    assert open_metrics.headers["content-type"].startswith("application/openmetrics-text")
    assert open_metrics.text.endswith("# EOF\n")


async def test_nothing_here_changes_anything(ops: Ops) -> None:
    for path in ("/livez", "/readyz", "/metrics"):
        assert (await ops.client.post(path)).status_code == 405
