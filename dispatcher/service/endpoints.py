"""The endpoints for operators. All are read-only, and none shows the id of an installation or a resource."""

import socket
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from dispatcher.service.health import Health
from dispatcher.service.http_server import serving, serving_on
from dispatcher.service.ops_connection import DEADLINE_SECONDS, OpsConnection


class Spokesman(Protocol):
    """Answers for the service: for one process, or for several."""

    async def is_live(self) -> bool:
        """Whether it is live: see `Health.live`."""

    async def why_not_ready(self) -> str | None:
        """Returns why it cannot deliver; None if it can."""

    async def registry(self) -> CollectorRegistry:
        """Returns its metrics."""


@dataclass(frozen=True, slots=True)
class _OneProcess:
    health: Health
    metrics: CollectorRegistry

    async def is_live(self) -> bool:
        return self.health.live

    async def why_not_ready(self) -> str | None:
        return self.health.why_not_ready

    async def registry(self) -> CollectorRegistry:
        return self.metrics


def ops_app(health: Health, registry: CollectorRegistry) -> Starlette:
    """Returns the endpoints of one process."""
    return ops_app_of(_OneProcess(health, registry))


def ops_app_of(spokesman: Spokesman) -> Starlette:
    """`/livez`, `/readyz`, `/metrics`."""

    async def livez(_request: Request) -> Response:
        live = await spokesman.is_live()
        return JSONResponse({"live": live}, 200 if live else 503)

    async def readyz(_request: Request) -> Response:
        why_not = await spokesman.why_not_ready()
        return JSONResponse({"ready": why_not is None, "reason": why_not}, 200 if why_not is None else 503)

    async def metrics(request: Request) -> Response:
        encode, media_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(await spokesman.registry()), media_type=media_type)

    return Starlette(routes=[Route("/livez", livez), Route("/readyz", readyz), Route("/metrics", metrics)])


def serving_ops(
    app: Starlette, host: str, port: int, *, deadline_seconds: float = DEADLINE_SECONDS
) -> AbstractAsyncContextManager[int]:
    """`serving` on the ops port, whose clients are not authenticated: each connection is limited in time, and so is their number."""
    return serving(app, host, port, **_limits(deadline_seconds))


def serving_on_socket(app: Starlette, listening: socket.socket) -> AbstractAsyncContextManager[None]:
    """The same on a socket that listens already."""
    return serving_on(listening, app, **_limits(DEADLINE_SECONDS))


def _limits(deadline_seconds: float) -> dict[str, Any]:
    connection = partial(OpsConnection, deadline_seconds=deadline_seconds)
    return {"http": connection, "ws": "none", "server_header": False}
