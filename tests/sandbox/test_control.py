"""Controlling the sandbox over HTTP."""

import pytest

from dispatcher.sandbox import Fault
from tests.sandbox.conftest import RESOURCE, Start


async def test_the_requests_are_listed(start: Start) -> None:
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
        listed = (await client.http.get("/requests", params=parameters)).json()
        return [everything.index(one) for one in listed]

    assert await ask(installation="icfg_1") == [0, 2]
    assert await ask(since=everything[1]["received_at"]) == [1, 2]
    assert await ask(installation="icfg_2", since=everything[2]["received_at"]) == []
    assert (await client.http.get("/requests", params={"since": "yesterday"})).status_code == 400


async def test_listing_is_not_recorded_and_the_list_can_be_cleared(start: Start) -> None:
    sandbox, client = await start()
    await client.post()
    for _ in range(2):
        assert len((await client.http.get("/requests")).json()) == 1
    assert (await client.http.delete("/requests")).status_code == 204
    assert sandbox.requests == []


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


async def test_it_is_healthy(start: Start) -> None:
    sandbox, client = await start()
    assert (await client.http.get("/healthz")).json() == {"status": "ok"}
    assert not sandbox.requests


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example", "content-type": "text/plain"},
        {"origin": "null"},
        {"host": "evil.example"},
        {"host": "evil.example:8377"},
    ],
)
@pytest.mark.parametrize(("method", "path"), [("POST", "/faults"), ("GET", "/requests"), ("DELETE", "/requests")])
async def test_no_web_page_reaches_what_controls_it(
    start: Start, headers: dict[str, str], method: str, path: str
) -> None:
    sandbox, client = await start()
    refused = await client.http.request(method, path, headers=headers, content=b'{"status": 503}')
    assert (refused.status_code, sandbox.faults) == (403, ())


async def test_a_page_of_its_own_and_every_name_of_this_machine_reach_it(start: Start) -> None:
    sandbox, client = await start()
    for headers in ({"origin": sandbox.url}, {"host": "localhost:8377"}, {"host": "[::1]:8377"}):
        assert (await client.http.get("/requests", headers=headers)).status_code == 200
