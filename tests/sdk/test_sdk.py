"""Vercel's own TypeScript client talks to the sandbox, and takes it for Vercel."""

import asyncio
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from dispatcher.policy.rate_window import RateLimit
from dispatcher.sandbox import Fault, Sandbox
from tests.conftest import not_tested

HERE = Path(__file__).parent
TOKEN = "t0ken-1"
RESOURCE_UPDATED: dict[str, Any] = {"type": "resource.updated", "resourceId": "db_1", "productId": "pg"}

pytestmark = [pytest.mark.gate, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program that creates events, with Vercel's client beside it."""
    missing = [command for command in ("node", "npm") if shutil.which(command) is None]
    if missing:
        not_tested(f"install {' and '.join(missing)} to try the sandbox with Vercel's own client")
    directory = tmp_path_factory.mktemp("sdk")
    for name in ("package.json", "package-lock.json", "create_events.mjs"):
        shutil.copy(HERE / name, directory)
    subprocess.run(["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"], cwd=directory, check=True, timeout=300)
    return directory / "create_events.mjs"


async def create_events(program: Path, sandbox: Sandbox, *calls: dict[str, Any]) -> list[dict[str, Any]]:
    """What each call came to."""
    defaults = {"token": TOKEN, "installation": "icfg_1", "event": RESOURCE_UPDATED}
    orders = {"serverURL": sandbox.url, "calls": [defaults | call for call in calls]}
    node = await asyncio.create_subprocess_exec(
        "node", program, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    said, _ = await asyncio.wait_for(node.communicate(json.dumps(orders).encode()), 60)
    assert node.returncode == 0
    outcomes: list[dict[str, Any]] = json.loads(said)
    return outcomes


async def test_both_events_are_created(program: Path) -> None:
    events: list[dict[str, Any]] = [
        RESOURCE_UPDATED,
        {"type": "resource.updated", "resourceId": "Größe/🗄"},
        {"type": "installation.updated", "billingPlanId": "pro"},
        {"type": "installation.updated"},
    ]
    async with Sandbox(tokens=frozenset({TOKEN})) as sandbox:
        outcomes = await create_events(program, sandbox, *({"event": event} for event in events))
    assert outcomes == [{"value": None}] * len(events)
    assert [one.event for one in sandbox.requests] == events
    assert {one.path for one in sandbox.requests} == {"/v1/installations/icfg_1/events"}


async def test_refusals_are_its_own_errors(program: Path) -> None:
    async with Sandbox(tokens=frozenset({TOKEN}), rate_limit=RateLimit(1, 600.0)) as sandbox:
        sandbox.script(Fault(status=404, resource_id="db_unknown"))
        bad, unauthorized, throttled, unknown = await create_events(
            program,
            sandbox,
            {"installation": "no installation"},
            {"token": "unknown"},
            {"installation": "no installation"},
            {"event": {"type": "resource.updated", "resourceId": "db_unknown"}},
        )
    for outcome, status, code in (
        (bad, 400, "bad_request"),
        (unauthorized, 401, "unauthorized"),
        (throttled, 429, "rate_limited"),
        (unknown, 404, "not_found"),
    ):
        assert (outcome["type"], outcome["status"], outcome["error"]["code"]) == ("SDKError", status, code)
        assert outcome["error"]["message"]
    assert throttled["error"]["limit"].keys() == {"remaining", "reset", "resetMs", "total"}
    assert 1 <= int(throttled["retryAfter"]) <= 600


async def test_broken_connections_are_its_own_errors(program: Path) -> None:
    async with Sandbox() as sandbox:
        sandbox.script(Fault(cut="before", times=1), Fault(hang=True, times=1))
        cut, hung = await create_events(program, sandbox, {}, {"options": {"timeoutMs": 300}})
    assert (cut["type"], hung["type"]) == ("ConnectionError", "RequestTimeoutError")


async def test_its_retries_come_through(program: Path) -> None:
    backoff = {"initialInterval": 10, "maxInterval": 50, "exponent": 1.5, "maxElapsedTime": 20_000}
    retries = {"strategy": "backoff", "backoff": backoff, "retryConnectionErrors": True}
    async with Sandbox() as sandbox:
        sandbox.script(
            Fault(status=503, times=1),
            Fault(status=429, headers={"Retry-After": "1"}, times=1),
            Fault(cut="after", times=1),
        )
        outcomes = await create_events(program, sandbox, {"options": {"retries": retries}})
    assert outcomes == [{"value": None}]
    assert [one.status for one in sandbox.requests] == [503, 429, 201, 201]
