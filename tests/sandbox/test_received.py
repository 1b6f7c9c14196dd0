"""What the sandbox records of a request."""

import hashlib
import time

from tests.sandbox.conftest import RESOURCE, TOKEN, Start


async def test_a_request_is_recorded_with_its_arrival_and_its_answer(start: Start) -> None:
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


async def test_any_body_is_recorded(start: Start) -> None:
    sandbox, client = await start()
    bodies = (b"", b"{", b"\xffa", b"[1]", b'{"event": 1}', b"x" * 70_000)
    for body in bodies:
        await client.post(body)
    expected: list[object] = ["", "{", "\N{REPLACEMENT CHARACTER}a", [1], {"event": 1}, "x" * 65_536]
    assert [one.body for one in sandbox.requests] == expected
    assert [one.event for one in sandbox.requests] == [{}] * len(bodies)


async def test_of_a_token_only_its_fingerprint_is_recorded(start: Start) -> None:
    sandbox, client = await start()
    for token in ("first-t0ken", "first-t0ken", "second-t0ken"):
        await client.post(token=token)
    await client.post(authorization="Basic eDp5")
    expected = [hashlib.sha256(token).hexdigest()[:12] for token in (b"first-t0ken", b"second-t0ken")]
    assert [one.token for one in sandbox.requests] == [expected[0], *expected, None]
    assert "t0ken" not in repr(sandbox.requests) + (await client.http.get("/requests")).text
