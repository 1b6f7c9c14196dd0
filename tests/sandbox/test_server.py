"""The sandbox as a server: its end, its limit of requests, and several in one process."""

import asyncio
import logging
from contextlib import suppress

import httpx
import pytest

from dispatcher.sandbox import Fault, Sandbox
from tests.sandbox.conftest import Start, eventually


async def test_the_end_does_not_wait_for_requests_that_hang(caplog: pytest.LogCaptureFixture) -> None:
    async with httpx.AsyncClient(trust_env=False, timeout=None) as http:  # noqa: S113 (it waits as long as the sandbox lets it)
        async with Sandbox() as sandbox:
            sandbox.script(Fault(hang=True, times=1), Fault(delay=3_600))
            url = httpx.URL(f"{sandbox.url}/v1/installations/icfg_1/events")
            held = [asyncio.create_task(http.post(url)) for _ in range(2)]
            await eventually(lambda: len(sandbox.requests) == 2)
            _, half_sent = await asyncio.open_connection(url.host, url.port)
            half_sent.write(b"POST /v1/installations/icfg_1/events HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{")
            await half_sent.drain()
            assert (await http.get(f"{sandbox.url}/healthz")).status_code == 200
        async with asyncio.timeout(60):
            ended = await asyncio.gather(*held, return_exceptions=True)
        half_sent.close()
    assert {isinstance(error, httpx.TransportError) for error in ended} == {True}
    assert not [
        record for record in caplog.records if record.name.startswith("uvicorn") and record.levelno >= logging.WARNING
    ]


async def test_the_end_does_not_wait_for_requests_that_begin_to_hang_meanwhile() -> None:
    async with httpx.AsyncClient(trust_env=False, timeout=60) as http:

        async def ask_on(url: str) -> None:
            with suppress(httpx.ConnectError):
                while True:
                    with suppress(httpx.ReadError, httpx.RemoteProtocolError):
                        await http.post(url)

        async with Sandbox() as sandbox:
            sandbox.script(Fault(hang=True))
            asking = asyncio.create_task(ask_on(f"{sandbox.url}/v1/installations/icfg_1/events"))
            await eventually(lambda: sandbox.requests)
            sandbox._in_flight.end()  # the first step of the end, while it still listens
            await eventually(lambda: len(sandbox.requests) > 1)
        await asyncio.wait_for(asking, 60)


async def test_of_too_many_requests_the_oldest_are_dropped(start: Start) -> None:
    sandbox, client = await start(max_requests=20)
    for number in range(25):
        await client.post(installation=f"icfg_{number}")
    assert [one.installation_id for one in sandbox.requests] == [f"icfg_{number}" for number in range(6, 25)]


async def test_several_sandboxes_in_one_process_know_nothing_of_each_other(start: Start) -> None:
    one, client = await start()
    other, _ = await start()
    one.script(Fault(status=503))
    await client.post()
    async with httpx.AsyncClient(base_url=other.url, timeout=60, trust_env=False) as http:
        assert (await http.get("/faults")).json() == []
    assert (len(one.requests), len(other.requests)) == (1, 0)
