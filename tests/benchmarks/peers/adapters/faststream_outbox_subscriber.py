"""faststream-outbox: one worker per request in flight, rows fetched and deleted in batches."""

import sys

import uvloop
from faststream import FastStream
from faststream_outbox import OutboxBroker, make_outbox_table
from sending import CONCURRENCY, Sending
from sqlalchemy import MetaData
from sqlalchemy.ext.asyncio import create_async_engine


async def main(command: str, url: str, sink: str) -> None:
    """Installs the table, or subscribes until it is stopped."""
    metadata = MetaData()
    table = make_outbox_table(metadata, table_name="outbox")
    engine = create_async_engine(url.replace("postgresql://", "postgresql+asyncpg://"), pool_size=CONCURRENCY + 6)
    if command == "install":
        async with engine.begin() as connection:
            await connection.run_sync(metadata.create_all)
        return
    sending, broker = Sending(sink), OutboxBroker(engine, outbox_table=table)

    @broker.subscriber(
        "events",
        max_workers=CONCURRENCY,
        fetch_batch_size=500,
        min_fetch_interval=0.05,
        terminal_flush_batch_size=100,
    )
    async def send(number: int) -> None:
        await sending.post(number)

    await FastStream(broker).run(log_level=40)


uvloop.run(main(*sys.argv[1:]))
