"""When the service is live and ready. More of this is tested through its endpoints."""

from dispatcher.service.health import LIVE_SECONDS, READY_SECONDS, Health
from dispatcher.telemetry import Ticked


def test_with_a_long_poll_interval_ticks_may_be_rare() -> None:
    times = iter(
        [0.0, 0.0, LIVE_SECONDS, READY_SECONDS, 600.0 + LIVE_SECONDS, 600.0 + READY_SECONDS, 600.0 + READY_SECONDS]
    )
    health = Health(lambda: next(times), poll_interval=600.0)
    health(Ticked(0))
    assert (health.live, health.why_not_ready) == (True, None)
    assert not health.live
    assert "the last tick succeeded" in str(health.why_not_ready)
