"""The service in this process, where a test can block one of its steps."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog
from pydantic import SecretStr
from sqlalchemy.exc import DBAPIError

from dispatcher import store
from dispatcher.database import migration, schema
from dispatcher.database.transactions import Database
from dispatcher.service import housekeeping, service
from dispatcher.service.health import Health
from dispatcher.settings.settings import Settings
from tests.migration.revisions import FIRST, migrate_to
from tests.processes.conftest import free_port
from tests.worker.conftest import DEADLINE_SECONDS


@asynccontextmanager
async def running(database: Database, **others: Any) -> AsyncIterator[httpx.AsyncClient]:
    """Runs the service; yields a client of its ops port once it is ready."""
    own: dict[str, Any] = {
        "database_url": SecretStr(database.engine.url.render_as_string(hide_password=False)),
        "database_schema": database.schema,
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


async def test_a_database_that_never_answered_ends_the_start_after_the_grace(tmp_path: Path) -> None:
    stop = asyncio.Event()
    away = Settings(
        database_url=SecretStr(f"sqlite:///{tmp_path}/missing/test.db"), vercel_token=SecretStr("t0ken"), ops_port=None
    )
    with structlog.testing.capture_logs() as lines, pytest.raises(DBAPIError, match="unable to open database file"):
        await service.run(away, stop, database_grace=0.1)
    assert [line["event"] for line in lines] == ["waiting for the database"]


async def test_an_older_schema_is_named_and_used_in_full_once_it_is_migrated(
    bare_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(housekeeping, "LOOK_FOR_MIGRATION_SECONDS", 0.05)
    migrate_to(bare_database, FIRST)
    looked = threading.Event()

    def look(database: Database) -> schema.Schema:
        found = check(database)
        if not database.lacking:
            looked.set()
        return found

    check = schema.check
    monkeypatch.setattr(schema, "check", look)
    with structlog.testing.capture_logs() as lines:
        async with running(bare_database, database_schema=bare_database.schema):
            assert not looked.is_set()
            migration.migrate(bare_database)
            assert await asyncio.to_thread(looked.wait, DEADLINE_SECONDS)
    (warning,) = (line for line in lines if line["event"] == "older schema")
    assert "Run `dispatcher migrate`" in warning["hint"]
    migration.downgrade(bare_database)


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
