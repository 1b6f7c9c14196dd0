"""The sandbox's own endpoints: the requests that it received, and the faults that are scripted."""

from collections.abc import Awaitable, Callable
from dataclasses import asdict
from urllib.parse import urlsplit

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from dispatcher.policy.hosts import is_local
from dispatcher.sandbox.errors import refuse
from dispatcher.sandbox.faults import Fault, Script
from dispatcher.sandbox.received import ReceivedRequest

Handler = Callable[[Request], Awaitable[Response]]

_FAULTS = TypeAdapter(list[Fault])


class Control:
    """`/healthz`; `GET /requests?installation=…&since=…` (epoch seconds), `DELETE /requests`; `GET`, `POST`, `DELETE /faults`."""

    def __init__(self, requests: list[ReceivedRequest], script: Script, *, local: bool) -> None:
        """`local`: the sandbox listens on this machine only, so a Host header must name this machine."""
        self._requests = requests
        self._script = script
        self._local = local

    def routes(self) -> list[Route]:
        """The routes, to be matched before Vercel's endpoint."""
        return [
            Route("/healthz", self._health),
            Route("/requests", self._guard(self._list_requests)),
            Route("/requests", self._guard(self._forget_requests), methods=["DELETE"]),
            Route("/faults", self._guard(self._list_faults)),
            Route("/faults", self._guard(self._script_fault), methods=["POST"]),
            Route("/faults", self._guard(self._clear_faults), methods=["DELETE"]),
        ]

    def _guard(self, endpoint: Handler) -> Handler:
        """Keeps web pages out: a browser sends the page's origin, and as the host the name by which the page reached us."""

        async def guarded(request: Request) -> Response:
            origin, host = request.headers.get("origin"), request.headers.get("host", "")
            if origin is not None and urlsplit(origin).netloc != host:
                return refuse(403, "a web page of another origin may not control the sandbox")
            if self._local and not is_local(urlsplit(f"//{host}").hostname or ""):
                return refuse(403, "the Host header must name this machine, such as localhost or 127.0.0.1")
            return await endpoint(request)

        return guarded

    async def _health(self, _: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def _list_requests(self, request: Request) -> Response:
        try:
            since = float(request.query_params.get("since", "-inf"))
        except ValueError:
            return refuse(400, "since must be a number, seconds since 1970 as in received_at")
        installation_id = request.query_params.get("installation")
        requests = [one for one in self._requests if one.received_at >= since]
        if installation_id is not None:
            requests = [one for one in requests if one.installation_id == installation_id]
        return JSONResponse([asdict(one) for one in requests])

    async def _forget_requests(self, _: Request) -> Response:
        self._requests.clear()
        return Response(status_code=204)

    async def _list_faults(self, _: Request) -> Response:
        return self._dump_faults(200)

    async def _script_fault(self, request: Request) -> Response:
        try:
            fault = Fault.model_validate_json(await request.body())
        except ValidationError as error:
            return refuse(
                400, "; ".join(_describe(one) for one in error.errors(include_url=False, include_input=False))
            )
        self._script.faults.append(fault)
        return self._dump_faults(201)

    async def _clear_faults(self, _: Request) -> Response:
        self._script.faults.clear()
        return Response(status_code=204)

    def _dump_faults(self, status: int) -> Response:
        return Response(
            _FAULTS.dump_json(self._script.faults, exclude_defaults=True), status, media_type="application/json"
        )


def _describe(error: ErrorDetails) -> str:
    return f"{'.'.join(map(str, error['loc']))} {error['msg'].removeprefix('Value error, ')}".strip()
