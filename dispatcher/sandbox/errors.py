"""The shape of Vercel's errors."""

from collections.abc import Mapping
from http.client import responses

from starlette.responses import JSONResponse

RATE_LIMITED = "rate_limited"


def refuse(
    status: int, message: str, *, code: str | None = None, headers: Mapping[str, str] | None = None, **more: object
) -> JSONResponse:
    """Answers `{"error": {"code", "message", …}}`; the default `code` is derived from the status."""
    error = {"code": code or code_of(status), "message": message, **more}
    return JSONResponse({"error": error}, status, headers)


def code_of(status: int) -> str:
    """429 → `rate_limited`, 404 → `not_found`."""
    return RATE_LIMITED if status == 429 else phrase(status).lower().replace(" ", "_")


def phrase(status: int) -> str:
    """404 → `Not Found`, 599 → `Status 599`."""
    return responses.get(status, f"Status {status}")
