"""The policy with real processes: rate, fairness, coalescing, outage, and a delivery that kills its dispatcher."""

import math
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import count

import pytest
import sqlalchemy as sa

from dispatcher.policy.breaker import BURST_SECONDS, ramp_rate
from tests.processes.conftest import HTTP, INSERT, Stage, wait_until

pytestmark = [pytest.mark.gate, pytest.mark.timeout(300)]
on_postgresql = pytest.mark.parametrize("server", ["postgresql"], indirect=True)
TICK_SECONDS = 0.2
"""POLL_INTERVAL: the longest pause between two looks of an idle dispatcher."""
STALL_SECONDS = 2
"""A busy machine may delay the first request after an outage by this."""
MANY = sa.text(
    "INSERT INTO vercel_outbox (installation_id, type, resource_id) "
    "SELECT :i || n % :installations, 'resource.updated', 'db_' || n % :resources FROM generate_series(1, :events) AS n"
)


def commit_many(stage: Stage, installation: str, *, events: int, resources: int, installations: int = 1) -> None:
    """Commits `events` changes of `resources` resources in one transaction."""
    with stage.partner.begin() as connection:
        of = {"i": installation, "events": events, "resources": resources, "installations": installations}
        connection.execute(MANY, of)


def post_events(stage: Stage, installation: str, number: int) -> None:
    """Sends events as another client of Vercel would: all at once, so that they leave the rate window together."""
    url = f"{stage.sandbox_url}/v1/installations/{installation}/events"
    for one in range(number):
        body = {"event": {"type": "resource.updated", "resourceId": f"by hand {one}"}}
        HTTP.post(url, json=body, headers={"authorization": "Bearer another"}).raise_for_status()


def everything_is_delivered(stage: Stage) -> bool:
    return stage.count("vercel_outbox") + stage.count("vercel_delivery") == 0


def three_and_another_client(stage: Stage, rate_limit: str) -> None:
    """Three busy dispatchers. Another client has used up a part of the rate window, as the headers of the first answers report."""
    stage.start_sandbox(rate_limit)
    post_events(stage, "icfg_0", 100)
    for _ in range(3):
        stage.start("run", DISPATCHER_RATE_LIMIT=rate_limit)
    commit_many(stage, "icfg_", events=1_000, resources=1_000)


@on_postgresql
def test_three_dispatchers_use_a_rate_window_in_full_and_never_exceed_it(stage: Stage) -> None:
    three_and_another_client(stage, "200/10m")
    wait_until(lambda: len(stage.requests()) == 200)
    wait_until(lambda: stage.count("vercel_delivery") == 900 and not stage.leased)  # all three have stopped
    found = stage.ask(f"{stage.sandbox_url}/requests")
    assert Counter(one["status"] for one in found) == {201: 200}
    assert len({one["body"]["event"]["resourceId"] for one in found}) == 200


@pytest.mark.nightly
@on_postgresql
def test_three_dispatchers_use_each_window_in_full(stage: Stage) -> None:
    """They wait for each window and nothing else. A descheduled process may send late, and so in the next window."""
    three_and_another_client(stage, "200/4s")
    began = time.monotonic()
    wait_until(lambda: everything_is_delivered(stage), 120)
    took = time.monotonic() - began
    sent = Counter(one["status"] for one in stage.ask(f"{stage.sandbox_url}/requests"))
    assert sent[201] == 1_100
    assert sent[429] <= sent[201] / 10
    assert took < 3 * (1_100 / 200) * 4


@pytest.mark.parametrize("events", [30_000, pytest.param(100_000, marks=pytest.mark.nightly)])
@on_postgresql
def test_a_hundred_thousand_changes_of_a_thousand_resources_are_a_thousand_requests(stage: Stage, events: int) -> None:
    stage.start_sandbox("off")
    commit_many(stage, "icfg_", events=events, resources=1_000, installations=20)
    stage.start("run", DISPATCHER_RATE_LIMIT="off")
    wait_until(lambda: everything_is_delivered(stage), 120)
    assert len(stage.requests()) == 1_000


def p90(lags: list[float]) -> float:
    return sorted(lags)[math.ceil(0.9 * len(lags)) - 1]


def lags_of_others(stage: Stage, name: str) -> list[float]:
    """Commits a change every 25 ms, of twenty installations in turn; returns the seconds from each commit to its request."""
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


@pytest.mark.nightly
@on_postgresql
def test_an_installation_with_a_hundred_thousand_resources_delays_others_by_no_more_than_a_tick(stage: Stage) -> None:
    stage.start_service()
    alone = p90(lags_of_others(stage, "alone"))
    commit_many(stage, "icfg_big_", events=100_000, resources=100_000)
    wait_until(lambda: stage.count("vercel_outbox") == 0, 120)
    meanwhile = p90(lags_of_others(stage, "meanwhile"))
    assert stage.count("vercel_delivery") > 90_000
    assert meanwhile <= 4 * max(alone, TICK_SECONDS)


@on_postgresql
def test_an_installation_with_many_resources_goes_on_while_others_have_their_turn(stage: Stage) -> None:
    """It sends one request at a time, and has far more to send than the others could wait for."""
    stage.start_sandbox("off")
    stage.script(delay=0.02, installation_id="icfg_big_0")
    commit_many(stage, "icfg_big_", events=5_000, resources=5_000)
    stage.start_service(DISPATCHER_CONCURRENCY="1", DISPATCHER_RATE_LIMIT="off")
    wait_until(stage.requests)
    for number in range(3):
        at = stage.commit(f"other_{number}")
        wait_until(partial(stage.received, f"other_{number}", at))
    assert stage.count("vercel_delivery") > 0


@contextmanager
def load(stage: Stage) -> Iterator[list[str]]:
    """Commits a change every 20 ms, of fifty resources in ten installations, until the block ends."""
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
    try:
        yield committed
    finally:
        stopped.set()
        writing.join()


@contextmanager
def outage(stage: Stage) -> Iterator[set[str]]:
    """Stops Vercel within the block. Yields the resources announced before, which the next sandbox does not know."""
    stage.script(hang=True)  # else one more request could be answered after this look, and be missed
    before = {one["body"]["event"]["resourceId"] for one in stage.requests()}
    stage.sandbox.kill()
    stage.sandbox.wait()
    yield before
    stage.start_sandbox("off", port=stage.sandbox_url.rpartition(":")[2])


@on_postgresql
def test_an_outage_ends_without_a_dead_letter(stage: Stage) -> None:
    """With only three attempts and a short backoff, everything would otherwise be given up within a second."""
    service = stage.start_service(DISPATCHER_MAX_ATTEMPTS="3", DISPATCHER_RATE_LIMIT="off")
    with load(stage) as committed:
        wait_until(lambda: len(stage.requests()) >= 20)
        with outage(stage) as before:
            wait_until(lambda: service.logged("breaker open"))
            probed = stage.count("vercel_attempt")
            wait_until(lambda: stage.count("vercel_attempt") >= probed + 5)
        wait_until(stage.requests)
    wait_until(lambda: everything_is_delivered(stage))
    assert stage.count("vercel_dead_letter") == 0
    assert before | {one["body"]["event"]["resourceId"] for one in stage.requests()} == set(committed)


@pytest.mark.nightly
@on_postgresql
def test_twenty_seconds_without_vercel_end_without_a_dead_letter_and_without_a_herd(stage: Stage) -> None:
    stage.start_service(DISPATCHER_MAX_ATTEMPTS="3", DISPATCHER_RATE_LIMIT="off")
    with load(stage) as committed:
        wait_until(lambda: len(stage.requests()) >= 20)
        with outage(stage) as before:
            time.sleep(20)
        wait_until(stage.requests, 70)
    wait_until(lambda: everything_is_delivered(stage))
    assert stage.count("vercel_dead_letter") == 0
    found = stage.requests()
    assert before | {one["body"]["event"]["resourceId"] for one in found} == set(committed)
    first = found[0]["received_at"]
    ramp = [ramp_rate(second + 1) * (1 + 2 * BURST_SECONDS) + 2 for second in range(20 + STALL_SECONDS)]
    for second in range(20):  # a late request is no herd: it counts with the seconds in which it was due
        started = sum(one["received_at"] < first + second + 1 for one in found)
        assert started <= sum(ramp[: second + 1 + STALL_SECONDS])


def has_begun(stage: Stage, times: int) -> bool:
    return len(stage.requests(None)) == times


def test_a_delivery_that_kills_its_dispatcher_every_time_ends_as_a_dead_letter(stage: Stage) -> None:
    stage.script(hang=True, resource_id="db_poison")
    stage.commit("db_poison")
    for deaths in range(4):  # the first death does not count: the delivery may have been one of many
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
