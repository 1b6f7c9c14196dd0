"""The service in this process, where a test can block one of its steps."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import httpx
import pytest
import structlog
from pydantic import SecretStr

from dispatcher import store
from dispatcher.database.transactions import Database
from dispatcher.service import service
from dispatcher.service.health import Health
from dispatcher.settings.settings import Settings
from tests.processes.conftest import free_port
from tests.worker.conftest import DEADLINE_SECONDS


@asynccontextmanager
async def running(database: Database, **others: Any) -> AsyncIterator[httpx.AsyncClient]:
    """Runs the service; yields a client of its ops port once it is ready."""
    own: dict[str, Any] = {
        "database_url": SecretStr(database.engine.url.render_as_string(hide_password=False)),
        "vercel_token": SecretStr("t0ken"),
        "vercel_base_url": f"http://127.0.0.1:{free_port()}",
        "allow_insecure_base_url": True,
        "ops_host": "127.0.0.1",
        "ops_port": free_port(),
    }
    settings = Settings(**(own | others))
    stop = asyncio.Event()
    serving = asyncio.create_task(service.run(settings, stop))
    try:
        async with httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{settings.ops_port}", timeout=DEADLINE_SECONDS
        ) as client:
            assert await answers(client, "/readyz", 200)
            yield client
    finally:
        stop.set()
        await serving


async def answers(client: httpx.AsyncClient, path: str, status: int) -> bool:
    """Whether the path answers with this status before the deadline; returns as soon as it does."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not (answered := await _is(client, path, status)) and time.monotonic() < deadline:
        await asyncio.sleep(0.02)
    return answered


async def _is(client: httpx.AsyncClient, path: str, status: int) -> bool:
    try:
        return (await client.get(path)).status_code == status
    except httpx.ConnectError:
        return False


async def test_livez_is_red_while_a_tick_is_stuck_and_green_again_after_it(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on, look = threading.Event(), store.look

    def stuck(*arguments: object) -> store.Work:
        go_on.wait(2 * DEADLINE_SECONDS)
        return look(*arguments)  # type: ignore[arg-type]  # passed on unchanged

    monkeypatch.setattr(service, "Health", partial(Health, live_seconds=0.5))
    async with running(database) as client:
        assert await answers(client, "/livez", 200)
        monkeypatch.setattr(store, "look", stuck)
        try:
            assert await answers(client, "/livez", 503)
        finally:
            go_on.set()
        assert await answers(client, "/livez", 200)


OAUTH = {
    "vercel_token": None,
    "oauth_token_url": "http://oauth.invalid/token",
    "oauth_client_id": "id",
    "oauth_client_secret": SecretStr("hush"),
}


@pytest.mark.parametrize(
    ("others", "warned"),
    [
        ({}, []),
        ({"vercel_base_url": "http://vercel.invalid"}, [("DISPATCHER_VERCEL_BASE_URL", "vercel.invalid")]),
        ({"vercel_base_url": "http://localhost:1"} | OAUTH, [("DISPATCHER_OAUTH_TOKEN_URL", "oauth.invalid")]),
        ({"vercel_base_url": "https://vercel.invalid"}, []),
    ],
)
async def test_each_start_warns_of_an_address_to_which_tokens_are_sent_in_clear_text(
    database: Database, others: dict[str, Any], warned: list[tuple[str, str]]
) -> None:
    with structlog.testing.capture_logs() as lines:
        async with running(database, **others):
            pass
    warnings = [line for line in lines if line["event"] == "tokens are sent unencrypted"]
    assert [(line["setting"], line["host"]) for line in warnings] == warned
    assert {line["log_level"] for line in warnings} <= {"warning"}
