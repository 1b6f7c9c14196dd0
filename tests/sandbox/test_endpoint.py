"""The sandbox answers as Vercel does according to its reference."""

import httpx
import pytest
from pydantic import SecretStr

from dispatcher.outbox.events import InstallationUpdated, ResourceUpdated, subject_of
from dispatcher.policy.outcome import OutcomeKind
from dispatcher.policy.rate_window import RateLimit
from dispatcher.transport import Network, open_transport
from dispatcher.vercel.client import Vercel
from tests.sandbox.conftest import RESOURCE_UPDATED, TOKEN, Both, Start

in_session = pytest.mark.asyncio(loop_scope="session")


def assert_refused(response: httpx.Response, status: int, code: str, about: str = "") -> None:
    assert response.status_code == status
    error = response.json()["error"]
    assert response.json() == {"error": {"code": code, "message": error["message"]}}
    assert about in error["message"]
    assert response.headers["x-vercel-id"]


@in_session
@pytest.mark.parametrize(
    "event",
    [
        RESOURCE_UPDATED,
        {**RESOURCE_UPDATED, "productId": "pg"},
        {**RESOURCE_UPDATED, "resourceId": "Größe/🗄 \u0000"},
        {**RESOURCE_UPDATED, "resourceId": "x" * 10_000},
        {"type": "installation.updated"},
        {"type": "installation.updated", "billingPlanId": "pro"},
    ],
)
async def test_an_event_is_received(shared: Both, event: object) -> None:
    _, client = shared
    response = await client.post({"event": event})
    assert (response.status_code, response.content) == (201, b"")
    assert response.headers["x-vercel-id"] != (await client.post({"event": event})).headers["x-vercel-id"]


@in_session
@pytest.mark.parametrize(
    ("body", "about"),
    [
        (b"", "JSON object"),
        (b"{", "JSON object"),
        (b"\xff", "JSON object"),
        (b'{"event": {"type": "resource.updated", "resourceId": "\\ud800"}}', "JSON object"),
        (b'{"event": {"type": "resource.updated", "resourceId": "' + b"x" * 70_000 + b'"}}', "65536"),
        ([], "JSON object"),
        ("event", "JSON object"),
        ({}, "event"),
        ({"event": None}, "event"),
        ({"event": []}, "event"),
        ({"event": {}}, "event"),
        ({"event": {"type": "resource.deleted"}}, "event"),
        ({"event": {"type": None}}, "event"),
        ({"event": {"type": "resource.updated"}}, "event.resourceId"),
        ({"event": {**RESOURCE_UPDATED, "resourceId": None}}, "event.resourceId"),
        ({"event": {**RESOURCE_UPDATED, "resourceId": 1}}, "event.resourceId"),
        ({"event": {**RESOURCE_UPDATED, "productId": None}}, "event.productId"),
        ({"event": {**RESOURCE_UPDATED, "resource_id": "db_1"}}, "event.resource_id"),
        ({"event": {**RESOURCE_UPDATED, "billingPlanId": "pro"}}, "event.billingPlanId"),
        ({"event": {"type": "installation.updated", "billingPlanId": None}}, "event.billingPlanId"),
        ({"event": {"type": "installation.updated", "resourceId": "db_1"}}, "event.resourceId"),
        ({"event": RESOURCE_UPDATED, "idempotencyKey": "1"}, "idempotencyKey"),
    ],
)
async def test_any_other_body_is_a_bad_request(shared: Both, body: object, about: str) -> None:
    _, client = shared
    assert_refused(await client.post(body), 400, "bad_request", about)
    assert (await client.post()).status_code == 201


@in_session
@pytest.mark.parametrize("content_type", ["", "text/plain", "application/x-www-form-urlencoded", "application/jsonp"])
async def test_any_other_content_type_is_a_bad_request(shared: Both, content_type: str) -> None:
    _, client = shared
    assert_refused(await client.post(content_type=content_type), 400, "bad_request", "application/json")


@in_session
async def test_a_content_type_may_have_parameters(shared: Both) -> None:
    _, client = shared
    assert (await client.post(content_type="Application/JSON; charset=utf-8")).status_code == 201


@in_session
async def test_a_query_is_a_bad_request(shared: Both) -> None:
    _, client = shared
    response = await client.post(path="/v1/installations/icfg_1/events?teamId=team_1")
    assert_refused(response, 400, "bad_request", "query")


@in_session
@pytest.mark.parametrize("installation", ["icfg_1", "A-z_0", "x" * 128, "icfg%5F1"])
async def test_an_installation_id_is_read_from_the_path(shared: Both, installation: str) -> None:
    sandbox, client = shared
    assert (await client.post(installation=installation)).status_code == 201
    assert sandbox.requests[-1].installation_id == installation.replace("%5F", "_")


@in_session
@pytest.mark.parametrize("installation", ["a%2Fb", "a%20b", "x" * 129, "a.b", "%C3%BC", "a%0A"])
async def test_an_invalid_installation_id_is_a_bad_request(shared: Both, installation: str) -> None:
    _, client = shared
    assert_refused(await client.post(installation=installation), 400, "bad_request", "installation id")


@in_session
@pytest.mark.parametrize(
    "path",
    ["/", "/v1/installations", "/v1/installations//events", "/v1/installations/a/b/events", "/v2/x", "/requests/1"],
)
async def test_any_other_path_is_not_found(shared: Both, path: str) -> None:
    sandbox, client = shared
    assert_refused(await client.post(path=path), 404, "not_found", "/v1/installations/{id}/events")
    assert sandbox.requests[-1].path == path


@in_session
@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE", "OPTIONS"])
async def test_any_other_method_is_not_allowed(shared: Both, method: str) -> None:
    _, client = shared
    response = await client.http.request(method, "/v1/installations/icfg_1/events")
    assert_refused(response, 405, "method_not_allowed", method)
    assert response.headers["allow"] == "POST"


@in_session
async def test_an_account_can_be_read(shared: Both) -> None:
    sandbox, client = shared
    authorization = {"authorization": f"Bearer {TOKEN}"}
    response = await client.http.get("/v1/installations/icfg_1/account", headers=authorization)
    assert response.status_code == 200
    assert response.json() == {
        "name": "Sandbox",
        "url": "https://vercel.com/d/dashboard/integrations/icfg_1",
        "contact": None,
    }
    assert (sandbox.requests[-1].method, sandbox.requests[-1].installation_id) == ("GET", "icfg_1")
    for path in ("/v1/installations/a.b/account", "/v1/installations/icfg_1/account?teamId=team_1"):
        assert_refused(await client.http.get(path, headers=authorization), 400, "bad_request")
    assert_refused(await client.http.get("/v1/installations/icfg_1/account"), 401, "unauthorized")


@in_session
async def test_an_account_can_only_be_read(shared: Both) -> None:
    _, client = shared
    response = await client.post(path="/v1/installations/icfg_1/account")
    assert_refused(response, 405, "method_not_allowed", "POST")
    assert response.headers["allow"] == "GET"


async def test_reading_an_account_uses_up_no_event(start: Start) -> None:
    sandbox, client = await start(rate_limit=RateLimit(1, 60.0), tokens=frozenset({TOKEN}))
    transport = open_transport(Network(), sandbox.url)
    vercel = Vercel(sandbox.url, transport, 60.0)
    kinds = [(await vercel.read_account("icfg_1", SecretStr(token))).kind for token in (TOKEN, TOKEN, "unknown")]
    await transport.aclose()
    assert kinds == [OutcomeKind.DELIVERED, OutcomeKind.DELIVERED, OutcomeKind.UNAUTHORIZED]
    assert (await client.post()).status_code == 201


@in_session
@pytest.mark.parametrize("authorization", ["", "Bearer", "Basic dDp0", TOKEN, f"Bearer {TOKEN} {TOKEN}"])
async def test_a_request_without_a_bearer_token_is_unauthorized(shared: Both, authorization: str) -> None:
    _, client = shared
    assert_refused(await client.post(authorization=authorization), 401, "unauthorized")


@in_session
async def test_without_a_list_any_bearer_token_is_valid(shared: Both) -> None:
    _, client = shared
    assert (await client.post(token="whatever")).status_code == 201
    assert (await client.post(authorization=f"bearer {TOKEN}")).status_code == 201


async def test_with_a_list_only_its_tokens_are_valid_and_it_may_be_replaced(start: Start) -> None:
    sandbox, client = await start(tokens=frozenset({"old", "older"}))
    assert [(await client.post(token=token)).status_code for token in ("old", "older", "new")] == [201, 201, 401]
    sandbox.tokens = frozenset({"new"})
    assert [(await client.post(token=token)).status_code for token in ("old", "older", "new")] == [401, 401, 201]


async def test_the_token_is_checked_before_the_body(start: Start) -> None:
    _, client = await start(tokens=frozenset({TOKEN}))
    assert_refused(await client.post({}, token="unknown"), 401, "unauthorized")


async def test_the_dispatchers_own_client_delivers_both_events(start: Start) -> None:
    sandbox, _ = await start(tokens=frozenset({TOKEN}))
    resource = subject_of(ResourceUpdated(installation_id="icfg_1", resource_id="Größe 1"))
    installation = subject_of(InstallationUpdated(installation_id="icfg_2"))
    transport = open_transport(Network(), sandbox.url)
    vercel = Vercel(sandbox.url, transport, 60.0)
    outcomes = [
        await vercel.send("icfg_1", resource.body(product_id="pg"), SecretStr(TOKEN)),
        await vercel.send("icfg_2", installation.body(billing_plan_id="pro"), SecretStr(TOKEN)),
        await vercel.send("icfg_2", installation.body(), SecretStr("unknown")),
    ]
    await transport.aclose()
    assert [outcome.kind for outcome in outcomes] == [
        OutcomeKind.DELIVERED,
        OutcomeKind.DELIVERED,
        OutcomeKind.UNAUTHORIZED,
    ]
    assert [outcome.vercel_id for outcome in outcomes] == [one.vercel_id for one in sandbox.requests]
    assert [one.event for one in sandbox.requests] == [
        {"type": "resource.updated", "resourceId": "Größe 1", "productId": "pg"},
        {"type": "installation.updated", "billingPlanId": "pro"},
        {"type": "installation.updated"},
    ]
