"""Real processes, and a subject that is written 500 times a second for 20 s."""

import time

import pytest

from tests.processes.conftest import INSERT, Stage, wait_until

pytestmark = pytest.mark.nightly

RATE = 500
SECONDS = 20
WINDOW_SECONDS = 2.0
LIMIT = 4
SLACK_SECONDS = 8.0
"""For a busy machine."""


def write_for(stage: Stage) -> float:
    """Commits as often as the rate and this database allow; returns the time (epoch seconds) before the last commit."""
    began = time.monotonic()
    with stage.partner.connect() as connection:
        for number in range(RATE * SECONDS):
            with connection.begin():
                connection.execute(INSERT, {"i": "icfg_1", "r": "db_busy"})
                at = time.time()
            if time.monotonic() - began > SECONDS:
                break
            time.sleep(max(0.0, began + number / RATE - time.monotonic()))
    return at


@pytest.mark.parametrize("server", ["sqlite", "postgresql", "mysql"], indirect=True)
def test_requests_stay_within_the_rate_the_lag_is_bounded_and_the_last_commit_is_covered(bare: Stage) -> None:
    stage = bare
    with stage.playing(rate_limit=f"{LIMIT}/{WINDOW_SECONDS}s"):
        stage.start_service(DISPATCHER_RATE_LIMIT=f"{LIMIT}/{WINDOW_SECONDS}s")
        began = time.time()
        last = write_for(stage)
        written = stage.query("SELECT max(last_event_id) FROM vercel_attempt")[0][0]
        wait_until(lambda: stage.received("db_busy", last))
        wait_until(lambda: stage.count("vercel_delivery") + stage.count("vercel_outbox") == 0)
        times = [one["received_at"] for one in stage.requests()]
        # A process that is descheduled at the wrong moment may send a little late, and so in the next window.
        assert len(stage.requests(429)) <= len(times) / 10
        assert len(times) <= LIMIT * ((times[-1] - times[0]) / WINDOW_SECONDS + 1)
        gaps = [after - before for before, after in zip([began, *times], times, strict=False)]
        assert max(gaps) <= WINDOW_SECONDS + SLACK_SECONDS
        assert written > SECONDS  # the subject really was busy
        assert stage.count("vercel_dead_letter") == 0
