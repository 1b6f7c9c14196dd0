"""Which outcome an answer is, and which parts of the answer the outcome contains."""

import base64
from urllib.parse import quote

import httpx
import pytest
from pydantic import SecretStr

from dispatcher.policy.outcome import Outcome, OutcomeKind
from dispatcher.transport.portable import HttpxTransport
from dispatcher.vercel.client import Vercel

TOKEN = "t0ken-7f3a+9/with=signs"


async def send(response: httpx.Response | Exception, installation_id: str = "icfg_1", token: str = TOKEN) -> Outcome:
    def reply(_request: httpx.Request) -> httpx.Response:
        if isinstance(response, Exception):
            raise response
        return response

    ticks = iter((10.0, 10.25))
    vercel = Vercel(
        "https://api.example",
        HttpxTransport(httpx.MockTransport(reply)),
        5.0,
        clock=lambda: next(ticks),
        wall_clock=lambda: 0.0,
    )
    return await vercel.send(installation_id, b"{}", SecretStr(token))


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        *((status, OutcomeKind.DELIVERED) for status in (200, 201, 202, 204, 299)),
        *((status, OutcomeKind.REJECTED) for status in (300, 307, 400, 402, 405, 413, 415, 422, 451)),
        *((status, OutcomeKind.UNAUTHORIZED) for status in (401, 403)),
        *((status, OutcomeKind.GONE) for status in (404, 410)),
        *((status, OutcomeKind.FAILED) for status in (408, 409, 423, 425, 500, 502, 503, 504, 599)),
        (429, OutcomeKind.THROTTLED),
        *((status, OutcomeKind.UNREACHABLE) for status in (100, 101, 600, 999)),
    ],
)
async def test_what_a_status_means(status: int, kind: OutcomeKind) -> None:
    outcome = await send(httpx.Response(status))
    assert (outcome.kind, outcome.status, outcome.duration) == (kind, status, 0.25)
    assert (outcome.error is None) == (kind is OutcomeKind.DELIVERED)


async def test_a_disabled_installation() -> None:
    body = {"error": {"code": "integration_configuration_disabled", "message": "off"}}
    outcome = await send(httpx.Response(403, json=body))
    assert (outcome.kind, outcome.error) == (OutcomeKind.DISABLED, "off")


@pytest.mark.parametrize(
    ("body", "code", "error"),
    [
        (b'{"error":{"code":"c","message":"m"}}', "c", "m"),
        (b'{"err":{"code":"c","message":"m"}}', "c", "m"),
        (b'{"code":"c","message":"m"}', "c", "m"),
        (b'{"error":"c","error_description":"m"}', "c", "m"),
        (b"<html><head><title>Down</title></head><body><p>Come &amp; go", None, "an HTML page: Down"),
        (b'{"error":{"message":"a\\u0000b\\nc\\ud800"}}', None, "ab c"),
        (b"plain words", None, "plain words"),
        (b"\xff\xfe\x00\x80" * 9, None, "400 Bad Request (the answer has no further details)"),
        (b"[" * 8_000, None, "[" * 2_000),
        (b"", None, "400 Bad Request (the answer has no further details)"),
    ],
)
async def test_the_best_readable_message(body: bytes, code: str | None, error: str) -> None:
    outcome = await send(httpx.Response(400, content=body))
    assert (outcome.error_code, outcome.error) == (code, error)


@pytest.mark.parametrize(
    "echo",
    [
        TOKEN,
        quote(TOKEN, safe=""),
        base64.b64encode(TOKEN.encode()).decode(),
        base64.b64encode(b"id:" + TOKEN.encode()).decode(),
        base64.urlsafe_b64encode(b"u:" + TOKEN.encode()).decode(),
        " ".join(TOKEN),
    ],
)
async def test_an_echoed_credential_is_redacted(echo: str) -> None:
    outcome = await send(httpx.Response(400, content=f"you sent {echo} to us".encode()))
    assert outcome.error is not None
    assert "[redacted]" in outcome.error
    assert echo not in outcome.error
    assert TOKEN not in repr(outcome)


@pytest.mark.parametrize("installation_id", ["", "a/b", "../x", "a b", "ä", "a\n", "x" * 129])
async def test_only_installation_ids_travel(installation_id: str) -> None:
    outcome = await send(AssertionError("a request was made"), installation_id)
    assert (outcome.kind, outcome.status) == (OutcomeKind.REJECTED, None)


@pytest.mark.parametrize("token", ["", "q z", "a\n", "ä", "x" * 513])
async def test_only_tokens_travel(token: str) -> None:
    outcome = await send(AssertionError("a request was made"), token=token)
    assert outcome.kind is OutcomeKind.NO_CREDENTIAL
    assert not token or token not in repr(outcome)


@pytest.mark.parametrize(
    ("error", "kind", "connected"),
    [
        (httpx.ConnectError(f"no {TOKEN}"), OutcomeKind.UNREACHABLE, False),
        (httpx.ReadError(f"broke {TOKEN}"), OutcomeKind.UNREACHABLE, True),
        (httpx.ReadTimeout("slow"), OutcomeKind.TIMEOUT, True),
        (RuntimeError(f"odd {TOKEN}"), OutcomeKind.UNREACHABLE, True),
    ],
)
async def test_an_error_of_the_transport(error: Exception, kind: OutcomeKind, connected: bool) -> None:
    outcome = await send(error)
    assert (outcome.kind, outcome.connected) == (kind, connected)
    assert TOKEN not in repr(outcome)


@pytest.mark.parametrize(("status", "wait"), [(429, 7.0), (503, 7.0), (400, None), (201, None)])
async def test_where_retry_after_counts(status: int, wait: float | None) -> None:
    assert (await send(httpx.Response(status, headers={"retry-after": "7"}))).retry_after == wait
