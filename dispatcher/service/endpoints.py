"""The endpoints for operators. All are read-only, and none shows the id of an installation or a resource."""

from contextlib import AbstractAsyncContextManager
from functools import partial

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from dispatcher.service.health import Health
from dispatcher.service.http_server import serving
from dispatcher.service.ops_connection import DEADLINE_SECONDS, OpsConnection


def ops_app(health: Health, registry: CollectorRegistry) -> Starlette:
    """`/livez`, `/readyz`, `/metrics`."""

    async def livez(_request: Request) -> Response:
        return JSONResponse({"live": health.live}, 200 if health.live else 503)

    async def readyz(_request: Request) -> Response:
        why_not = health.why_not_ready
        return JSONResponse({"ready": why_not is None, "reason": why_not}, 200 if why_not is None else 503)

    async def metrics(request: Request) -> Response:
        encode, media_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(registry), media_type=media_type)

    return Starlette(routes=[Route("/livez", livez), Route("/readyz", readyz), Route("/metrics", metrics)])


def serving_ops(
    app: Starlette, host: str, port: int, *, deadline_seconds: float = DEADLINE_SECONDS
) -> AbstractAsyncContextManager[int]:
    """`serving` on the ops port, whose clients are not authenticated: each connection is limited in time, and so is their number."""
    connection = partial(OpsConnection, deadline_seconds=deadline_seconds)
    return serving(app, host, port, http=connection, ws="none", server_header=False)
