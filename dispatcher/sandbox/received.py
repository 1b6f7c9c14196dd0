"""A request as the sandbox received it."""

import hashlib
import re
from dataclasses import dataclass
from urllib.parse import unquote

from pydantic_core import from_json
from starlette.requests import Request

_PATH = re.compile(r"/v1/installations/([^/]+)/(events|account)")
_BEARER = re.compile(r"bearer +([\x21-\x7e]+) *", re.IGNORECASE)
MAX_BODY_BYTES = 65_536
"""No event is longer; the rest of a longer body is not read."""


@dataclass(frozen=True, slots=True)
class ReceivedRequest:
    """A request, and how it was answered."""

    received_at: float
    """Epoch seconds at which the request's head arrived."""
    monotonic: float
    """The same by a monotonic clock, in seconds."""
    method: str
    path: str
    """As it was sent, with the query."""
    installation_id: str | None
    """None if the path is not that of an endpoint."""
    body: object
    """The JSON value, or the text if it is not JSON."""
    token: str | None
    """A fingerprint of the bearer token, never the token itself; None if there was none."""
    vercel_id: str
    status: int | None
    """The answer's, whether or not it reached the client; None if a fault left the request unanswered."""
    fault: str | None
    """The name of the scripted fault that was applied to it."""

    @property
    def event(self) -> dict[str, object]:
        """The event in the body; empty if there is none."""
        return event_in(self.body)


def event_in(body: object) -> dict[str, object]:
    """The event in a JSON body, valid or not; empty if there is none."""
    event = body.get("event") if isinstance(body, dict) else None
    return event if isinstance(event, dict) else {}


def resource_in(body: object) -> str | None:
    """The resource id in a body; None if there is none."""
    resource_id = event_in(body).get("resourceId")
    return resource_id if isinstance(resource_id, str) else None


async def read_json(request: Request) -> object:
    """The value in the body; if it is not JSON in UTF-8, or too long, its text. Raises `starlette.requests.ClientDisconnect`."""
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
    """The installation id in the path, decoded; None if the path is not that of an endpoint."""
    match = _PATH.fullmatch(path.partition("?")[0])
    return unquote(match[1]) if match else None


def asks_for_account(path: str) -> bool:
    """Whether the path is that of an installation's account."""
    match = _PATH.fullmatch(path.partition("?")[0])
    return match is not None and match[2] == "account"


def bearer_token(request: Request) -> str | None:
    """The bearer token of the request; None if there is none."""
    match = _BEARER.fullmatch(request.headers.get("authorization", ""))
    return match[1] if match else None


def fingerprint(token: str) -> str:
    """A short hash that distinguishes tokens without revealing them."""
    return hashlib.sha256(token.encode()).hexdigest()[:12]
