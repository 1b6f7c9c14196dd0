"""txoutbox: large batches, rows deleted when delivered, no strict order, woken by NOTIFY."""

import sys

import asyncpg
import uvloop
from sending import CONCURRENCY, Sending
from txoutbox import OutboxMessage, Relay, RelayConfig
from txoutbox.adapters.postgres import PostgresStorage


async def main(command: str, url: str, sink: str) -> None:
    """Installs the tables, or relays until it is stopped."""
    pool = await asyncpg.create_pool(url)
    outbox = PostgresStorage(pool, strict_ordering=False, delete_on_ack=True, notify_channel="outbox")
    if command == "install":
        await outbox.create_schema()
        return
    sending = Sending(sink)

    async def publish(message: OutboxMessage) -> None:
        await sending.post(int(message.payload))

    relay = Relay(outbox, publish, config=RelayConfig(batch_size=500, concurrency=CONCURRENCY))
    await outbox.listen(relay.wake)
    await relay.run(handle_signals=True)


uvloop.run(main(*sys.argv[1:]))
