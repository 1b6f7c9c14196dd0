"""`DISPATCHER_PROCESSES`: one `run` with several worker processes, which are really killed, frozen and replaced."""

import os
import signal
from functools import partial
from pathlib import Path

import pytest

from dispatcher.cli.exits import Exit
from tests.processes.conftest import HTTP, Running, Stage, free_port, wait_until

pytestmark = pytest.mark.gate
NUMBER = 2


def start(stage: Stage, **environment: str) -> Running:
    """Starts a service with two worker processes, and waits until both are ready."""
    stage.ops_port = free_port()
    service = stage.start(
        "run", DISPATCHER_PROCESSES=str(NUMBER), DISPATCHER_OPS_PORT=str(stage.ops_port), **environment
    )
    wait_until(lambda: service.poll() is not None or get(stage, "/readyz")[0] == 200)
    assert service.poll() is None, service.log
    return service


def get(stage: Stage, path: str) -> tuple[int, str]:
    answer = HTTP.get(f"http://127.0.0.1:{stage.ops_port}{path}")
    return answer.status_code, answer.text


def children(service: Running) -> list[int]:
    """Returns the worker processes that run."""
    return [int(pid) for pid in Path(f"/proc/{service.pid}/task/{service.pid}/children").read_text().split()]


def is_replaced(service: Running, victim: int) -> bool:
    return victim not in children(service) and len(children(service)) == NUMBER


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_they_deliver_together_and_stop_together(stage: Stage) -> None:
    service = start(stage)
    workers = children(service)
    assert len(workers) == NUMBER
    wait_until(lambda: stage.count("vercel_dispatcher") == NUMBER)
    at = stage.commit("db_1", "db_2")
    wait_until(lambda: stage.received("db_1", at) and stage.received("db_2", at))
    wait_until(lambda: stage.metric('dispatcher_requests_total{outcome="delivered"} 2.0'))
    assert stage.metric("dispatcher_events_collected_total 2.0")
    assert stage.run("health").returncode == 0
    service.send_signal(signal.SIGTERM)
    assert service.wait(60) == 0
    assert all(map(is_gone, workers))
    events = [line["event"] for line in service.lines]
    assert (events.count("worker processes started"), events.count("started"), events.count("stopped")) == (1, 2, 2)
    assert stage.count("vercel_dispatcher") == 0


def test_one_that_dies_is_replaced_and_reported(stage: Stage) -> None:
    service = start(stage)
    stage.commit("db_1")
    wait_until(lambda: stage.metric('dispatcher_requests_total{outcome="delivered"} 1.0'))
    first, second = children(service)
    for victim in (first, second):
        os.kill(victim, signal.SIGKILL)
        wait_until(partial(is_replaced, service, victim))
    assert get(stage, "/livez")[0] == 200
    wait_until(lambda: get(stage, "/readyz")[0] == 200)
    assert stage.metric('dispatcher_requests_total{outcome="delivered"} 1.0')  # no counter has fallen
    died = [line for line in service.lines if line["event"] == "worker process died"]
    assert sorted(line["process"] for line in died) == [1, 2]
    assert {line["exit_code"] for line in died} == {128 + signal.SIGKILL}
    stage.expire_leases()
    at = stage.commit("db_1")
    wait_until(lambda: stage.received("db_1", at))


def test_the_health_is_that_of_the_worst(stage: Stage) -> None:
    service = start(stage)
    frozen = children(service)[1]
    os.kill(frozen, signal.SIGSTOP)
    status, text = get(stage, "/readyz")
    os.kill(frozen, signal.SIGCONT)
    assert status == 503
    assert "worker process " in text
    assert "no answer" in text
    wait_until(lambda: get(stage, "/readyz")[0] == 200)


def test_a_signal_to_all_of_them_at_once_stops_them_in_order(stage: Stage) -> None:
    service = start(stage)
    for pid in (*children(service), service.pid):  # as systemd and some shells do
        os.kill(pid, signal.SIGTERM)
    assert service.wait(60) == 0
    assert [line["event"] for line in service.lines].count("stopped") == NUMBER


def test_they_end_with_their_parent(stage: Stage) -> None:
    service = start(stage)
    workers = children(service)
    service.kill()
    service.wait()
    wait_until(lambda: all(map(is_gone, workers)))
    assert [line["event"] for line in service.lines].count(
        "stopped"
    ) == NUMBER  # in order, with their leases given back


def test_one_that_cannot_start_ends_the_others_with_its_exit_code(bare: Stage) -> None:
    ended = bare.run("run", DISPATCHER_PROCESSES="2", DISPATCHER_OPS_PORT="off")
    assert ended.returncode == Exit.FAILED
    assert "dispatcher migrate" in ended.stderr


def test_a_second_signal_ends_them_at_once(stage: Stage) -> None:
    stage.script(delay=30)
    service = start(stage)
    workers = children(service)
    stage.commit("db_1")
    wait_until(lambda: stage.metric("dispatcher_in_flight 1.0"))
    service.send_signal(signal.SIGTERM)
    wait_until(lambda: [line["event"] for line in service.lines].count("draining") == NUMBER)
    service.send_signal(signal.SIGINT)
    assert service.wait(10) in {128 + signal.SIGINT, 128 + signal.SIGTERM}
    assert all(map(is_gone, workers))
