"""The bare HTTP client, for comparison: the same transport, concurrency and requests, and nothing else.

`python -m tests.benchmarks.bare URL REQUESTS CONCURRENCY`
"""

import asyncio
import sys

from dispatcher.outbox.events import RESOURCE_UPDATED, Subject
from dispatcher.service.event_loop import run_in_loop
from dispatcher.transport import Network, Request, open_transport


async def post(url: str, requests: int, concurrency: int) -> None:
    """Posts `requests` events, at most `concurrency` at a time."""
    transport = open_transport(Network(), url)
    target = f"{url}/v1/installations/icfg_0/events"
    body = Subject("icfg_0", RESOURCE_UPDATED, "db_0").body()
    headers = {"authorization": "Bearer t0ken", "content-type": "application/json", "accept": "application/json"}
    left = iter(range(requests))

    async def send() -> None:
        for _ in left:
            assert (await transport.exchange(Request(target, headers, body, timeout=10, limit=0))).status == 201

    await asyncio.gather(*(send() for _ in range(concurrency)))
    await transport.aclose()


if __name__ == "__main__":
    run_in_loop(post(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
