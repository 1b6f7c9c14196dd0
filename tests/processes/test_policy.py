"""The policy with real processes: rate, fairness, coalescing, outage, and a delivery that kills whoever makes it."""

import math
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import count

import httpx
import pytest
import sqlalchemy as sa

from dispatcher.breaker import BURST_SECONDS, ramp_rate
from tests.processes.conftest import INSERT, Stage, free_port, wait_until

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(300)]
on_postgresql = pytest.mark.parametrize("server", ["postgresql"], indirect=True)
TICK = 0.2
"""POLL_INTERVAL: the longest that a dispatcher with nothing to do waits before it looks again."""
MANY = sa.text(
    "INSERT INTO vercel_outbox (installation_id, type, resource_id) "
    "SELECT :i || n % :installations, 'resource.updated', 'db_' || n % :resources FROM generate_series(1, :events) AS n"
)


def commit_many(stage: Stage, installation: str, *, events: int, resources: int, installations: int = 1) -> None:
    """In one transaction, `events` changes of `resources` resources."""
    with stage.partner.begin() as connection:
        of = {"i": installation, "events": events, "resources": resources, "installations": installations}
        connection.execute(MANY, of)


def another_sandbox(stage: Stage, rate_limit: str) -> None:
    """In place of the stage's own; from now on services talk to this one."""
    stage.sandbox_url = f"http://127.0.0.1:{free_port()}"
    stage.environment["DISPATCHER_VERCEL_BASE_URL"] = stage.sandbox_url
    stage.start("sandbox", "--port", stage.sandbox_url.rpartition(":")[2], "--rate-limit", rate_limit)
    wait_until(lambda: stage.ask(f"{stage.sandbox_url}/faults") == [])


def post_events(stage: Stage, installation: str, number: int) -> None:
    """Another client of Vercel's than ours: all within a moment, so that they leave the window together."""
    url = f"{stage.sandbox_url}/v1/installations/{installation}/events"
    with httpx.Client(headers={"authorization": "Bearer another"}) as client:
        for one in range(number):
            body = {"event": {"type": "resource.updated", "resourceId": f"by hand {one}"}}
            client.post(url, json=body).raise_for_status()


def everything_is_delivered(stage: Stage) -> bool:
    return stage.count("vercel_outbox") + stage.count("vercel_delivery") == 0


@on_postgresql
def test_three_dispatchers_use_a_rate_window_in_full_and_never_exceed_it(stage: Stage) -> None:
    """Another client has used up a part of the window already: the headers of the first answers say so."""
    another_sandbox(stage, "200/4s")
    post_events(stage, "icfg_0", 100)
    for _ in range(3):
        stage.start("run", DISPATCHER_RATE_LIMIT="200/4s", DISPATCHER_OPS_PORT="0")
    commit_many(stage, "icfg_", events=1_000, resources=1_000)
    began = time.monotonic()
    wait_until(lambda: everything_is_delivered(stage), 60)
    took = time.monotonic() - began
    found = stage.ask(f"{stage.sandbox_url}/requests")
    assert Counter(one["status"] for one in found) == {201: 1_100}
    assert took < 3 * (1_100 / 200) * 4  # in full: the window is waited for, and nothing else
    assert len({one["body"]["event"]["resourceId"] for one in found}) == 1_100


@on_postgresql
def test_a_hundred_thousand_changes_of_a_thousand_resources_are_a_thousand_requests(stage: Stage) -> None:
    another_sandbox(stage, "off")
    commit_many(stage, "icfg_", events=100_000, resources=1_000, installations=20)
    stage.start("run", DISPATCHER_RATE_LIMIT="off", DISPATCHER_LEASE="60s", DISPATCHER_REQUEST_TIMEOUT="10s")
    wait_until(lambda: everything_is_delivered(stage), 120)
    assert len(stage.requests()) == 1_000


def p99(lags: list[float]) -> float:
    return sorted(lags)[math.ceil(0.99 * len(lags)) - 1]


def lags_of_others(stage: Stage, name: str) -> list[float]:
    """One change every 25 ms, of twenty installations in turn; from its commit to its request, of each."""
    committed: dict[str, float] = {}
    for number in range(300):
        resource = f"{name}_{number}"
        with stage.partner.begin() as connection:
            connection.execute(INSERT, {"i": f"icfg_other_{number % 20}", "r": resource})
        committed[resource] = time.time()
        time.sleep(0.025)

    def arrived() -> dict[str, float]:
        return {one["body"]["event"]["resourceId"]: one["received_at"] for one in stage.requests()}

    found = wait_until(lambda: (seen := arrived()).keys() >= committed.keys() and seen)
    return [max(0.0, found[resource] - at) for resource, at in committed.items()]


@on_postgresql
def test_an_installation_with_a_hundred_thousand_resources_delays_others_by_no_more_than_a_tick(stage: Stage) -> None:
    stage.start_service(DISPATCHER_REQUEST_TIMEOUT="10s", DISPATCHER_LEASE="60s")
    alone = p99(lags_of_others(stage, "alone"))
    commit_many(stage, "icfg_big_", events=100_000, resources=100_000)
    wait_until(lambda: stage.count("vercel_outbox") == 0, 120)
    beside = p99(lags_of_others(stage, "beside"))
    assert stage.count("vercel_delivery") > 90_000
    assert beside <= 2 * max(alone, TICK)


@contextmanager
def load(stage: Stage) -> Iterator[list[str]]:
    """A change every 20 ms of fifty resources in ten installations, until the block ends."""
    stopped, committed = threading.Event(), list[str]()

    def write() -> None:
        for number in count():
            if stopped.wait(0.02):
                return
            resource = f"db_{number % 50}_{number // 50}"
            with stage.partner.begin() as connection:
                connection.execute(INSERT, {"i": f"icfg_{number % 10}", "r": resource})
            committed.append(resource)

    writing = threading.Thread(target=write)
    writing.start()
    yield committed
    stopped.set()
    writing.join()


@on_postgresql
def test_twenty_seconds_without_vercel_end_without_a_dead_letter_and_without_a_herd(stage: Stage) -> None:
    """With three attempts only, and hardly a backoff, everything would be given up within a second."""
    sandbox = stage.processes[-1]
    stage.start_service(DISPATCHER_MAX_ATTEMPTS="3", DISPATCHER_RATE_LIMIT="off")
    with load(stage) as committed:
        wait_until(lambda: len(stage.requests()) >= 20)
        before = {one["body"]["event"]["resourceId"] for one in stage.requests()}
        sandbox.send_signal(signal.SIGKILL)
        sandbox.wait()
        time.sleep(20)
        stage.start("sandbox", "--port", stage.sandbox_url.rpartition(":")[2], "--rate-limit", "off")
        wait_until(stage.requests, 70)
    wait_until(lambda: everything_is_delivered(stage), 60)
    assert stage.count("vercel_dead_letter") == 0
    found = stage.requests()
    assert before | {one["body"]["event"]["resourceId"] for one in found} == set(committed)
    first = found[0]["received_at"]
    for second in range(20):
        started = sum(first + second <= one["received_at"] < first + second + 1 for one in found)
        assert started <= ramp_rate(second + 1) * (1 + 2 * BURST_SECONDS) + 2


def has_begun(stage: Stage, times: int) -> bool:
    return len(stage.requests(None)) == times


def test_a_delivery_that_kills_its_dispatcher_every_time_ends_as_a_dead_letter(stage: Stage) -> None:
    stage.script(hang=True, resource_id="db_poison")
    stage.commit("db_poison")
    for deaths in range(3):
        service = stage.start_service(
            DISPATCHER_MAX_ATTEMPTS="3", DISPATCHER_REQUEST_TIMEOUT="60s", DISPATCHER_LEASE="90s"
        )
        wait_until(partial(has_begun, stage, deaths + 1))
        service.send_signal(signal.SIGKILL)
        service.wait()
        stage.expire_leases()
    at = stage.commit("db_good")
    stage.start_service(DISPATCHER_MAX_ATTEMPTS="3")
    wait_until(lambda: stage.received("db_good", at))
    wait_until(lambda: stage.count("vercel_delivery") == 0)
    assert stage.query("SELECT reason, resource_id, attempts FROM vercel_dead_letter") == [
        ("exhausted", "db_poison", 3)
    ]
