"""What every server of this project owes its clients."""

import re
import socket
import statistics
import time

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from dispatcher.http_server import PortUnavailable, serving


async def test_answers_on_a_kept_connection_do_not_wait_for_acknowledgements() -> None:
    async def answer(_: Request) -> PlainTextResponse:
        return PlainTextResponse("here")

    app = Starlette(routes=[Route("/", answer)])
    took = []
    async with serving(app, "127.0.0.1", 0) as port, httpx.AsyncClient(trust_env=False) as client:
        for _ in range(30):
            began = time.perf_counter()
            assert (await client.get(f"http://127.0.0.1:{port}/")).text == "here"
            took.append(time.perf_counter() - began)
    assert statistics.median(took) < 0.03, "with Nagle's algorithm it is 0.04"


async def test_a_port_in_use_is_named_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PortUnavailable, match=re.escape(f"127.0.0.1 port {port}: ") + r"[^()\d]+$"):
            async with serving(Starlette(), "127.0.0.1", port):
                pass


async def test_a_host_that_does_not_exist_is_named() -> None:
    with pytest.raises(PortUnavailable, match=r"nowhere\.invalid port 0: \w"):
        async with serving(Starlette(), "nowhere.invalid", 0):
            pass
