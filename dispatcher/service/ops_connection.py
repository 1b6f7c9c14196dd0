"""A connection to the ops port. Anyone may open one, so their number and the duration of each are limited."""

import asyncio
from typing import Any, cast

from typing_extensions import override
from uvicorn.protocols.http.h11_impl import H11Protocol

MAX_CONNECTIONS = 32
"""Probes and scrapes need a few. One more closes the one that has waited longest, so that silent clients cannot keep a probe out."""
DEADLINE_SECONDS = 10.0
"""For a request and its answer, since the connection was opened or the previous answer was complete."""


class OpsConnection(H11Protocol):
    """uvicorn's own `limit_concurrency` counts only requests whose head is complete, and its only timeout is between requests."""

    _deadline: asyncio.TimerHandle

    def __init__(self, *arguments: Any, deadline_seconds: float = DEADLINE_SECONDS, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self._deadline_seconds = deadline_seconds

    @property
    def deadline(self) -> float:
        """The time, on the loop's clock, at which the connection is closed unless an answer is complete by then."""
        return self._deadline.when()

    @override
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as the parent has it
        super().connection_made(transport)
        self._start_deadline()
        if len(self.connections) > MAX_CONNECTIONS:
            self._close_the_oldest()

    @override
    def on_response_complete(self) -> None:
        self._deadline.cancel()
        self._start_deadline()
        super().on_response_complete()

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self._deadline.cancel()
        super().connection_lost(exc)

    def _start_deadline(self) -> None:
        self._deadline = self.loop.call_later(self._deadline_seconds, self.transport.abort)

    def _close_the_oldest(self) -> None:
        oldest = min(cast("set[OpsConnection]", self.connections), key=lambda connection: connection.deadline)
        # uvicorn does this only once the connection is lost, by which time it has accepted the next ones.
        self.connections.discard(oldest)
        oldest.transport.abort()
