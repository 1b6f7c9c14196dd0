"""pgqueuer: batches of 100, at most 200 tasks; larger batches were slower."""

import sys

import asyncpg
import uvloop
from pgqueuer import PgQueuer
from pgqueuer.db import AsyncpgDriver
from pgqueuer.models import Job
from pgqueuer.queries import Queries
from sending import Sending


async def main(command: str, url: str, sink: str) -> None:
    """Installs the tables, or consumes until it is stopped."""
    driver = AsyncpgDriver(await asyncpg.connect(url))
    if command == "install":
        await Queries(driver).install()
        return
    sending, consumer = Sending(sink), PgQueuer(driver)

    @consumer.entrypoint("send")
    async def send(job: Job) -> None:
        await sending.post(int(job.payload or b""))

    await consumer.run(batch_size=100, max_concurrent_tasks=200)


uvloop.run(main(*sys.argv[1:]))
