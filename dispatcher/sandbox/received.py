"""A request as the sandbox received it."""

import hashlib
import re
from dataclasses import dataclass
from urllib.parse import unquote

from pydantic_core import from_json
from starlette.requests import Request

_PATH = re.compile(r"/v1/installations/([^/]+)/events")
_BEARER = re.compile(r"bearer +([\x21-\x7e]+) *", re.IGNORECASE)
MAX_BODY_BYTES = 65_536
"""Bytes. No event is longer; what goes beyond is not read."""


@dataclass(frozen=True, slots=True)
class ReceivedRequest:
    """What arrived, when, and what became of it.

    `received_at` (epoch seconds) and `monotonic` (seconds) are the moment at which the request's head was here. `path` is as sent, with
    the query. `body` is the JSON value, or the text if it was none. `token` is a fingerprint, never the token; None: no bearer
    token. `status` is the answer's, whether or not it reached the client; None: a fault left the request unanswered.
    `fault` names the scripted fault that befell it.
    """

    received_at: float
    monotonic: float
    method: str
    path: str
    installation_id: str | None
    body: object
    token: str | None
    vercel_id: str
    status: int | None
    fault: str | None

    @property
    def event(self) -> dict[str, object]:
        """The event in the body; empty if there is none."""
        return event_in(self.body)


def event_in(body: object) -> dict[str, object]:
    """The event in a JSON body, whatever it looks like; empty if there is none."""
    event = body.get("event") if isinstance(body, dict) else None
    return event if isinstance(event, dict) else {}


def resource_in(body: object) -> str | None:
    """The id of the resource that a body names."""
    resource_id = event_in(body).get("resourceId")
    return resource_id if isinstance(resource_id, str) else None


async def read_json(request: Request) -> object:
    """The value in the body; if it is no JSON in UTF-8 or too long, its text. Raises `starlette.requests.ClientDisconnect`."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            return _text(body)
    try:
        return from_json(bytes(body), allow_inf_nan=False)
    except ValueError:
        return _text(body)


def _text(body: bytearray) -> str:
    return body[:MAX_BODY_BYTES].decode("utf-8", errors="replace")


def path_of(request: Request) -> str:
    """The path as it was sent, with the query."""
    query = request.scope["query_string"]
    raw: bytes = request.scope["raw_path"] + (b"?" + query if query else b"")
    return raw.decode("latin-1")


def installation_in(path: str) -> str | None:
    """The installation in the endpoint's path, decoded; None if this is not the endpoint."""
    match = _PATH.fullmatch(path.partition("?")[0])
    return unquote(match[1]) if match else None


def bearer_token(request: Request) -> str | None:
    """The credential of the request."""
    match = _BEARER.fullmatch(request.headers.get("authorization", ""))
    return match[1] if match else None


def fingerprint(token: str) -> str:
    """Tells tokens apart without giving them away."""
    return hashlib.sha256(token.encode()).hexdigest()[:12]
