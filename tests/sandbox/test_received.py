"""What the sandbox remembers, and how it is asked and told over HTTP."""

import hashlib
import time

import httpx
import pytest

from dispatcher.sandbox import Fault, server
from tests.sandbox.conftest import RESOURCE, TOKEN, Start


async def test_a_request_is_remembered_with_its_arrival_and_its_fate(start: Start) -> None:
    sandbox, client = await start(tokens=frozenset({TOKEN}))
    before, monotonic_before = time.time(), time.monotonic()
    answer = await client.post(installation="icfg%5F1")
    await client.post(RESOURCE, token="wrong")
    (first, second) = sandbox.requests
    assert before <= first.received_at <= second.received_at <= time.time()
    assert monotonic_before <= first.monotonic <= second.monotonic <= time.monotonic()
    assert (first.method, first.path) == ("POST", "/v1/installations/icfg%5F1/events")
    assert (first.installation_id, first.body, first.event) == ("icfg_1", RESOURCE, RESOURCE["event"])
    assert (first.status, second.status) == (201, 401)
    assert first.vercel_id == answer.headers["x-vercel-id"]


async def test_whatever_the_body_is_it_is_remembered(start: Start) -> None:
    sandbox, client = await start()
    bodies = (b"", b"{", b"\xffa", b"[1]", b'{"event": 1}', b"x" * 70_000)
    for body in bodies:
        await client.post(body)
    expected: list[object] = ["", "{", "\N{REPLACEMENT CHARACTER}a", [1], {"event": 1}, "x" * 65_536]
    assert [one.body for one in sandbox.requests] == expected
    assert [one.event for one in sandbox.requests] == [{}] * len(bodies)


async def test_a_token_is_known_by_its_fingerprint_alone(start: Start) -> None:
    sandbox, client = await start()
    for token in ("first-t0ken", "first-t0ken", "second-t0ken"):
        await client.post(token=token)
    await client.post(authorization="Basic eDp5")
    expected = [hashlib.sha256(token).hexdigest()[:12] for token in (b"first-t0ken", b"second-t0ken")]
    assert [one.token for one in sandbox.requests] == [expected[0], *expected, None]
    assert "t0ken" not in repr(sandbox.requests) + (await client.http.get("/requests")).text


async def test_the_requests_can_be_asked_for(start: Start) -> None:
    sandbox, client = await start()
    for installation in ("icfg_1", "icfg_2", "icfg_1"):
        await client.post(installation=installation)
    everything = (await client.http.get("/requests")).json()
    assert everything[0] == {
        "received_at": sandbox.requests[0].received_at,
        "monotonic": sandbox.requests[0].monotonic,
        "method": "POST",
        "path": "/v1/installations/icfg_1/events",
        "installation_id": "icfg_1",
        "body": RESOURCE,
        "token": sandbox.requests[0].token,
        "vercel_id": sandbox.requests[0].vercel_id,
        "status": 201,
        "fault": None,
    }
    assert [one["installation_id"] for one in everything] == ["icfg_1", "icfg_2", "icfg_1"]

    async def ask(**parameters: str | float) -> list[object]:
        asked = (await client.http.get("/requests", params=parameters)).json()
        return [everything.index(one) for one in asked]

    assert await ask(installation="icfg_1") == [0, 2]
    assert await ask(since=everything[1]["received_at"]) == [1, 2]
    assert await ask(installation="icfg_2", since=everything[2]["received_at"]) == []
    assert (await client.http.get("/requests", params={"since": "yesterday"})).status_code == 400


async def test_asking_is_not_remembered_and_the_memory_can_be_emptied(start: Start) -> None:
    sandbox, client = await start()
    await client.post()
    for _ in range(2):
        assert len((await client.http.get("/requests")).json()) == 1
    assert (await client.http.delete("/requests")).status_code == 204
    assert sandbox.requests == []


async def test_of_too_many_requests_the_oldest_are_forgotten(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "MOST_REQUESTS", 20)
    sandbox, client = await start()
    for number in range(25):
        await client.post(installation=f"icfg_{number}")
    assert [one.installation_id for one in sandbox.requests] == [f"icfg_{number}" for number in range(6, 25)]


async def test_faults_are_scripted_listed_and_cleared_over_http(start: Start) -> None:
    sandbox, client = await start()
    scripted = {"status": 503, "headers": {"Retry-After": "1"}, "times": 2}
    answer = await client.http.post("/faults", json=scripted)
    assert (answer.status_code, answer.json()) == (201, [scripted])
    assert (await client.http.post("/faults", json={"cut": "after", "delay": 1})).status_code == 201
    assert sandbox.faults == (
        Fault(status=503, headers={"Retry-After": "1"}, times=2),
        Fault(cut="after", delay=1),
    )
    assert (await client.post()).headers["retry-after"] == "1"
    listed = await client.http.get("/faults")
    assert listed.json() == [{**scripted, "times": 1}, {"cut": "after", "delay": 1}]
    assert (await client.http.delete("/faults")).status_code == 204
    assert (await client.http.get("/faults")).json() == []
    assert (await client.post()).status_code == 201


@pytest.mark.parametrize("body", ["", "[]", "{}", '{"status": "503"}', '{"status": 503, "number": 1}'])
async def test_a_fault_that_makes_no_sense_is_refused_over_http(start: Start, body: str) -> None:
    sandbox, client = await start()
    answer = await client.http.post("/faults", content=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"]
    assert not sandbox.faults


async def test_it_says_that_it_is_well(start: Start) -> None:
    sandbox, client = await start()
    assert (await client.http.get("/healthz")).json() == {"status": "ok"}
    assert not sandbox.requests


async def test_several_sandboxes_in_one_process_know_nothing_of_each_other(start: Start) -> None:
    one, client = await start()
    other, _ = await start()
    one.script(Fault(status=503))
    await client.post()
    async with httpx.AsyncClient(base_url=other.url, timeout=60, trust_env=False) as http:
        assert (await http.get("/faults")).json() == []
    assert (len(one.requests), len(other.requests)) == (1, 0)
