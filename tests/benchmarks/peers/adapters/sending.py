"""The request that every Python peer sends for an event: one POST over aiohttp, the fastest client that they recommend."""

import json

import aiohttp

CONCURRENCY = 64


class Sending:
    """One session for all events."""

    def __init__(self, sink: str) -> None:
        self._sink = sink
        connector = aiohttp.TCPConnector(limit=CONCURRENCY)
        self._session = aiohttp.ClientSession(connector=connector, headers={"authorization": "Bearer t0ken"})

    async def post(self, number: int) -> None:
        """Posts an event. Raises RuntimeError unless the answer is 201."""
        body = json.dumps({"event": {"type": "resource.updated", "resourceId": f"db_{number}"}}).encode()
        headers = {"content-type": "application/json"}
        async with self._session.post(f"{self._sink}/events/{number}", data=body, headers=headers) as answer:
            await answer.read()
            if answer.status != 201:
                raise RuntimeError(f"status {answer.status}")
