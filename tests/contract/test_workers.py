"""Several dispatchers on one database, over real HTTP."""

import asyncio
from collections import Counter

import pytest
from pydantic import SecretStr

from dispatcher.credentials.sources import StaticCredentials
from dispatcher.database.transactions import Database
from dispatcher.outbox.tables import dead_letter, delivery, outbox
from dispatcher.policy.rate_window import RateLimit
from dispatcher.sandbox import Fault, Sandbox
from dispatcher.settings.settings import Settings
from dispatcher.telemetry import Report, Stranded
from dispatcher.transport import Network, Transport, open_transport
from dispatcher.vercel.client import Vercel
from dispatcher.worker.worker import Worker
from tests.contract.steps import DEADLINE_SECONDS, count, write

LIMIT = RateLimit(20, 1.0)


def hire(
    database: Database,
    sandbox: Sandbox,
    transport: Transport,
    reports: list[Report],
    name: str,
    limit: RateLimit | None,
) -> Worker:
    """Returns a worker that delivers to the sandbox."""
    settings = Settings(vercel_token=SecretStr("t0ken"), rate_limit=limit, backoff_base=0.01, backoff_cap=0.05)
    vercel = Vercel(sandbox.url, transport, settings.request_timeout)
    return Worker(database, vercel, StaticCredentials(SecretStr("t0ken")), settings, reports.append, name=name)


async def deliver(database: Database, sandbox: Sandbox, limit: RateLimit | None) -> list[Report]:
    """Runs three workers until nothing is left."""
    reports: list[Report] = []
    transport = open_transport(Network(), sandbox.url)
    workers = [hire(database, sandbox, transport, reports, f"worker {n}", limit) for n in range(3)]

    async def work(worker: Worker) -> None:
        while await asyncio.to_thread(lambda: count(database, delivery) + count(database, outbox)):
            await asyncio.sleep(min(await worker.tick(), 0.02))
        await worker.stop(DEADLINE_SECONDS)
        worker.close()

    async with asyncio.timeout(DEADLINE_SECONDS):
        await asyncio.gather(*map(work, workers))
    await transport.aclose()
    return reports


async def test_three_dispatchers_share_one_rate_window_exactly(database: Database) -> None:
    with database.engine.begin() as connection:
        write(connection, *(f"db_{number}" for number in range(50)))
    async with Sandbox(rate_limit=LIMIT) as sandbox:
        await deliver(database, sandbox, LIMIT)
        assert Counter(one.status for one in sandbox.requests) == {201: 50}


@pytest.mark.varies
@pytest.mark.parametrize("cut", ["before", "after"])
async def test_three_dispatchers_deliver_everything_through_faults(database: Database, cut: str) -> None:
    with database.engine.begin() as connection:
        for number in range(10):
            write(connection, *(f"db_{number}" for number in range(10)), installation_id=f"icfg_{number}")
    async with Sandbox(rate_limit=None) as sandbox:
        sandbox.script(Fault(status=503, times=30), Fault.model_validate_json(f'{{"cut": "{cut}", "times": 10}}'))
        reports = await deliver(database, sandbox, None)
        delivered = {(one.installation_id, one.event["resourceId"]) for one in sandbox.requests if one.status == 201}
        assert len(delivered) == 100
        assert count(database, dead_letter) == 0
        assert not [report for report in reports if isinstance(report, Stranded)]
