"""An event's path through real processes, and what happens to it when they are stopped."""

import json
import signal

import pytest

from tests.processes.conftest import Stage, on_every_database, wait_until


@on_every_database
@pytest.mark.varies
def test_an_event_that_a_plain_insert_wrote_reaches_vercel(bare: Stage) -> None:
    stage = bare
    migrated = stage.run("migrate")
    assert migrated.returncode == 0, migrated.stderr
    with stage.playing():
        service = stage.start_service()
        at = stage.commit("db_1")
        wait_until(lambda: stage.received("db_1", at))
        wait_until(lambda: stage.query("SELECT count(*) FROM vercel_delivery") == [(0,)])
        assert stage.run("health").returncode == 0
        service.send_signal(signal.SIGTERM)
        assert service.wait(60) == 0
        assert stage.run("health").returncode == 4
        assert "t0ken-of-the-test" not in service.out + service.log


def test_after_sigterm_requests_in_flight_end_and_are_settled(stage: Stage) -> None:
    stage.script(delay=0.7, times=1)
    service = stage.start_service()
    at = stage.commit("db_1")
    wait_until(stage.requests)  # its answer is held back
    service.send_signal(signal.SIGTERM)
    assert service.wait(60) == 0
    assert stage.received("db_1", at)
    assert stage.query("SELECT count(*) FROM vercel_delivery") == [(0,)]
    assert stage.query("SELECT lease_token FROM vercel_installation") == [(None,)]
    assert stage.query("SELECT outcome FROM vercel_attempt") == [("delivered",)]


def test_a_second_signal_ends_it_at_once(stage: Stage) -> None:
    stage.script(hang=True)
    service = stage.start_service(DISPATCHER_REQUEST_TIMEOUT="30s", DISPATCHER_LEASE="60s")
    stage.commit("db_1")
    wait_until(lambda: stage.requests(None))
    service.send_signal(signal.SIGTERM)
    wait_until(lambda: service.logged("draining"))
    assert service.poll() is None
    service.send_signal(signal.SIGTERM)
    # It exits by itself, since process 1 of a container is immune to the signal. At the end of its grace it would exit with 0.
    assert service.wait(60) == 128 + signal.SIGTERM


def test_drain_delivers_what_is_due_and_reports_what_is_left(stage: Stage) -> None:
    stage.commit("db_1", "db_2", "db_2")
    drained = stage.run("drain", "--json")
    assert (drained.returncode, json.loads(drained.stdout)) == (
        0,
        {"events": 3, "requests": 2, "delivered": 2, "dead_lettered": 0, "waiting": 0},
    )
    stage.script(status=401)
    stage.commit("db_3")
    assert stage.run("drain").returncode == 0
    assert stage.run("drain", "--fail-if-waiting").returncode == 5
    assert stage.query("SELECT pause_reason FROM vercel_installation") == [("unauthorized",)]
