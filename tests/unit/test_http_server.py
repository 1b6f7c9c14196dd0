"""The properties of every server of this project."""

import re
import socket

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from dispatcher.service import http_server
from dispatcher.service.http_server import PortUnavailable, serving


async def test_answers_on_a_kept_connection_do_not_wait_for_acknowledgements(monkeypatch: pytest.MonkeyPatch) -> None:
    """With Nagle's algorithm each answer would wait for 40 ms."""
    servers: list[uvicorn.Server] = []

    class Watched(http_server._Server):
        def __init__(self, config: uvicorn.Config) -> None:
            super().__init__(config)
            servers.append(self)

    async def answer(_: Request) -> PlainTextResponse:
        return PlainTextResponse("here")

    monkeypatch.setattr(http_server, "_Server", Watched)
    app = Starlette(routes=[Route("/", answer)])
    async with serving(app, "127.0.0.1", 0) as port, httpx.AsyncClient(trust_env=False) as client:
        assert (await client.get(f"http://127.0.0.1:{port}/")).text == "here"
        (connection,) = servers[0].server_state.connections
        accepted = connection.transport.get_extra_info("socket")
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


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
