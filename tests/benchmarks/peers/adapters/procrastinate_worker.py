"""procrastinate: one concurrent job per request in flight, finished jobs deleted, woken by NOTIFY."""

import sys

import uvloop
from procrastinate import App, PsycopgConnector
from sending import CONCURRENCY, Sending


async def main(command: str, url: str, sink: str) -> None:
    """Installs the schema, or works until it is stopped."""
    app = App(connector=PsycopgConnector(conninfo=url, min_size=10, max_size=20))
    async with app.open_async():
        if command == "install":
            await app.schema_manager.apply_schema_async()
            return
        sending = Sending(sink)

        @app.task(name="send", queue="events")
        async def send(n: int) -> None:
            await sending.post(n)

        await app.run_worker_async(concurrency=CONCURRENCY, delete_jobs="successful")


uvloop.run(main(*sys.argv[1:]))
