"""Scripted faults: each is applied to the requests that match it, as often as it was scripted."""

import asyncio
import time

import httpx
import pytest
from pydantic import SecretStr, ValidationError

from dispatcher.outbox.events import Subject
from dispatcher.policy.outcome import OutcomeKind
from dispatcher.policy.rate_window import RateLimit
from dispatcher.sandbox import Fault, Sandbox
from dispatcher.transport import Network, open_transport
from dispatcher.vercel.client import Vercel
from tests.sandbox.conftest import TOKEN, Client, Start, eventually


def resource(resource_id: str) -> object:
    return {"event": {"type": "resource.updated", "resourceId": resource_id}}


def fates(sandbox: Sandbox) -> list[tuple[int | None, str | None]]:
    return [(one.status, one.fault) for one in sandbox.requests]


async def statuses(client: Client, times: int) -> list[int]:
    return [(await client.post()).status_code for _ in range(times)]


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (307, "temporary_redirect"),
        (401, "unauthorized"),
        (404, "not_found"),
        (410, "gone"),
        (429, "rate_limited"),
        (503, "service_unavailable"),
        (599, "status_599"),
    ],
)
async def test_a_status_comes_with_an_error_like_vercels(start: Start, status: int, code: str) -> None:
    sandbox, client = await start()
    sandbox.script(Fault(status=status))
    answer = await client.post()
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert answer.headers["x-vercel-id"] == sandbox.requests[0].vercel_id


@pytest.mark.parametrize("status", [200, 202, 204, 304])
async def test_some_statuses_come_without_a_body(start: Start, status: int) -> None:
    sandbox, client = await start()
    sandbox.script(Fault(status=status, times=1))
    answer = await client.post()
    assert (answer.status_code, answer.content) == (status, b"")
    assert (await client.post()).status_code == 201


async def test_an_answer_can_be_scripted_exactly(start: Start) -> None:
    sandbox, client = await start()
    disabled = Fault(status=403, error_code="integration_configuration_disabled", times=1)
    page = Fault(status=502, body="<h1>Bad</h1>", headers={"Content-Type": "text/html", "Retry-After": "7"}, times=1)
    sandbox.script(disabled, page)
    first, second = await client.post(), await client.post()
    assert (first.status_code, first.json()["error"]["code"]) == (403, "integration_configuration_disabled")
    assert (second.status_code, second.text) == (502, "<h1>Bad</h1>")
    assert (second.headers["content-type"], second.headers["retry-after"]) == ("text/html", "7")


async def test_a_fault_is_applied_to_its_number_of_requests_then_the_next_one_is(start: Start) -> None:
    sandbox, client = await start()
    sandbox.script(Fault(status=503, times=2), Fault(status=429, times=1))
    assert await statuses(client, 1) == [503]
    assert sandbox.faults == (Fault(status=503, times=1), Fault(status=429, times=1))
    assert await statuses(client, 3) == [503, 429, 201]
    assert not sandbox.faults


async def test_without_a_number_it_lasts_until_it_is_cleared(start: Start) -> None:
    sandbox, client = await start()
    sandbox.script(Fault(status=500))
    assert set(await statuses(client, 10)) == {500}
    sandbox.clear()
    assert await statuses(client, 1) == [201]


async def test_a_fault_can_be_for_an_installation_or_a_resource(start: Start) -> None:
    sandbox, client = await start()
    sandbox.script(
        Fault(status=404, installation_id="icfg_2", resource_id="db_2"),
        Fault(status=401, installation_id="icfg_2"),
        Fault(status=410, resource_id="db_3"),
    )
    answers = {
        (installation, resource_id): (await client.post(resource(resource_id), installation)).status_code
        for installation in ("icfg_1", "icfg_2")
        for resource_id in ("db_1", "db_2", "db_3")
    }
    assert list(answers.values()) == [201, 201, 410, 401, 404, 401]
    installation = {"event": {"type": "installation.updated"}}
    assert (await client.post(installation, "icfg_1")).status_code == 201
    assert (await client.post(installation, "icfg_2")).status_code == 401


async def test_a_delay_holds_the_answer_back_and_nothing_else(start: Start) -> None:
    sandbox, client = await start()
    sandbox.script(Fault(delay=3_600, times=1))
    slow = asyncio.create_task(client.post())
    await eventually(lambda: sandbox.requests)
    assert (await client.post(installation="icfg_2")).status_code == 201
    assert not slow.done()
    assert fates(sandbox) == [(201, "delay"), (201, None)]
    slow.cancel()
    await asyncio.wait([slow])


async def test_after_the_delay_the_answer_comes(start: Start) -> None:
    sandbox, client = await start()
    sandbox.script(Fault(delay=0.3, times=1))
    assert (await client.post()).status_code == 201
    assert time.monotonic() - sandbox.requests[0].monotonic >= 0.3


async def test_a_delay_goes_before_any_other_fault(start: Start) -> None:
    sandbox, client = await start()
    sandbox.script(Fault(delay=0.2, status=503, times=1), Fault(delay=0.2, cut="before"))
    began = time.monotonic()
    assert (await client.post()).status_code == 503
    with pytest.raises(httpx.RemoteProtocolError):
        await client.post()
    assert time.monotonic() - began >= 0.4
    assert fates(sandbox) == [(503, "status"), (None, "cut before")]


async def test_a_hanging_request_is_recorded_and_ends_when_the_client_leaves(start: Start) -> None:
    sandbox, client = await start()
    sandbox.script(Fault(hang=True, times=1))
    hanging = asyncio.create_task(client.post())
    await eventually(lambda: sandbox.requests)
    assert fates(sandbox) == [(None, "hang")]
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.shield(hanging), 0.2)
    hanging.cancel()
    await asyncio.wait([hanging])
    assert (await client.post()).status_code == 201


async def test_a_cut_before_leaves_the_request_unjudged(start: Start) -> None:
    sandbox, client = await start(rate_limit=RateLimit(1, 60.0))
    sandbox.script(Fault(cut="before", times=3))
    for _ in range(3):
        with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
            await client.post()
    assert await statuses(client, 2) == [201, 429]
    assert fates(sandbox) == [*[(None, "cut before")] * 3, (201, None), (429, None)]


async def test_a_cut_after_withholds_an_answer_that_was_decided(start: Start) -> None:
    sandbox, client = await start(rate_limit=RateLimit(1, 60.0))
    sandbox.script(Fault(cut="after", times=2))
    for _ in range(2):
        with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
            await client.post()
    assert await statuses(client, 1) == [429]
    assert fates(sandbox) == [(201, "cut after"), (429, "cut after"), (429, None)]


async def test_garbage_is_no_http(start: Start) -> None:
    sandbox, client = await start()
    sandbox.script(Fault(garbage=True, times=1))
    with pytest.raises(httpx.RemoteProtocolError):
        await client.post()
    assert await statuses(client, 1) == [201]
    assert fates(sandbox) == [(None, "garbage"), (201, None)]


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (Fault(hang=True), OutcomeKind.TIMEOUT),
        (Fault(delay=3_600), OutcomeKind.TIMEOUT),
        (Fault(cut="before"), OutcomeKind.UNREACHABLE),
        (Fault(cut="after"), OutcomeKind.UNREACHABLE),
        (Fault(garbage=True), OutcomeKind.UNREACHABLE),
        (Fault(status=503), OutcomeKind.FAILED),
        (Fault(status=404), OutcomeKind.GONE),
        (Fault(status=403, error_code="integration_configuration_disabled"), OutcomeKind.DISABLED),
        (Fault(status=307, headers={"Location": "/elsewhere"}), OutcomeKind.REJECTED),
    ],
    ids=lambda value: value.name if isinstance(value, Fault) else None,
)
async def test_the_dispatchers_own_client_sees_it(start: Start, fault: Fault, kind: OutcomeKind) -> None:
    sandbox, _ = await start()
    sandbox.script(fault)
    transport = open_transport(Network(), sandbox.url)
    body = Subject("icfg_1", "installation.updated").body()
    timeout = 1.0 if kind is OutcomeKind.TIMEOUT else 60.0
    outcome = await Vercel(sandbox.url, transport, timeout).send("icfg_1", body, SecretStr(TOKEN))
    await transport.aclose()
    await eventually(lambda: sandbox.requests)
    assert (outcome.kind, len(sandbox.requests)) == (kind, 1)


@pytest.mark.parametrize(
    ("fields", "about"),
    [
        ({}, "needs one of"),
        ({"times": 1}, "needs one of"),
        ({"status": 503, "hang": True}, "exclude"),
        ({"cut": "before", "garbage": True}, "exclude"),
        ({"hang": True, "headers": {"Retry-After": "1"}}, "status only"),
        ({"delay": 1, "body": "x"}, "status only"),
        ({"status": 400, "body": "x", "error_code": "y"}, "error_code"),
        ({"status": 204, "body": "x"}, "204"),
        ({"status": 200, "headers": {"Content-Length": "5"}}, "'Content-Length'"),
        ({"status": 200, "headers": {"X": "a\r\nb"}}, "'X'"),
        ({"status": 100}, "200"),
        ({"status": "503"}, "integer"),
        ({"status": 503, "times": 0}, "1"),
        ({"delay": -1}, "0"),
        ({"delay": float("nan")}, "finite"),
        ({"cut": "sometimes"}, "after"),
        ({"status": 503, "installation": "icfg_1"}, "installation"),
    ],
)
def test_a_fault_that_makes_no_sense_is_refused(fields: dict[str, object], about: str) -> None:
    with pytest.raises(ValidationError, match=about):
        Fault.model_validate(fields)
