"""The answer that Vercel would give: the checks of its reference, in their order."""

import math
import re
from collections import defaultdict
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from dispatcher.policy.rate_window import RateLimit
from dispatcher.sandbox.errors import RATE_LIMITED, refuse
from dispatcher.sandbox.quota import Quota
from dispatcher.sandbox.received import MAX_BODY_BYTES, asks_for_account, bearer_token, path_of


class _Closed(BaseModel):
    model_config = ConfigDict(extra="forbid")


# Vercel refuses null where a field may be absent, so optional fields have an unused default instead of None.
class _ResourceUpdated(_Closed):
    type: Literal["resource.updated"]
    resource_id: Annotated[str, Field(alias="resourceId")]
    product_id: Annotated[str, Field(alias="productId")] = ""


class _InstallationUpdated(_Closed):
    type: Literal["installation.updated"]
    billing_plan_id: Annotated[str, Field(alias="billingPlanId")] = ""


class _Body(_Closed):
    event: Annotated[_ResourceUpdated | _InstallationUpdated, Field(discriminator="type")]


_BODY = TypeAdapter(_Body)
_TYPES = {"resource.updated", "installation.updated"}
_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")


class Endpoint:
    """Judges requests. `tokens` are the valid bearer tokens, None for any; a `rate_limit` of None switches it off."""

    def __init__(self, tokens: frozenset[str] | None, rate_limit: RateLimit | None) -> None:
        self.tokens = tokens
        self._quotas = None if rate_limit is None else defaultdict[str, Quota](lambda: Quota(rate_limit))

    def judge(self, request: Request, installation_id: str | None, body: object) -> Response:
        """Returns the answer, and counts an event against the rate limit. Sends nothing."""
        if installation_id is None:
            return refuse(404, "The path was not found: events are posted to /v1/installations/{id}/events.")
        is_account = asks_for_account(path_of(request))
        allowed = "GET" if is_account else "POST"
        if request.method != allowed:
            return refuse(405, f"{request.method} is not allowed here.", headers={"Allow": allowed})
        unauthorized = self._authorize(request)
        if unauthorized is not None:
            return unauthorized
        if is_account:
            return _describe_account(request, installation_id)
        if self._quotas is None:
            return _check(request, installation_id, body)
        return _within_quota(self._quotas[installation_id], request, installation_id, body)

    def _authorize(self, request: Request) -> Response | None:
        token = bearer_token(request)
        if token is None:
            return refuse(401, "The request has no bearer token.")
        if self.tokens is not None and token not in self.tokens:
            return refuse(401, "The bearer token is not valid.")
        return None


def _describe_account(request: Request, installation_id: str) -> Response:
    problem = _problem_of_path(request, installation_id)
    if problem is not None:
        return refuse(400, f"Invalid request: {problem}.")
    url = f"https://vercel.com/d/dashboard/integrations/{installation_id}"
    return JSONResponse({"name": "Sandbox", "url": url, "contact": None})


def _within_quota(quota: Quota, request: Request, installation_id: str, body: object) -> Response:
    admitted = quota.take(request.state.monotonic)
    reset_in = quota.reset_in(request.state.monotonic)
    reset_at = request.state.received_at + reset_in
    answer = _check(request, installation_id, body) if admitted else _throttle(quota, reset_in, reset_at)
    answer.headers.update(quota.headers(reset_at))
    return answer


def _throttle(quota: Quota, reset_in: float, reset_at: float) -> Response:
    limit = {
        "remaining": quota.remaining,
        "reset": math.ceil(reset_at),
        "resetMs": math.ceil(reset_at * 1_000),
        "total": quota.limit.requests,
    }
    return refuse(
        429,
        f"The rate limit of {quota.limit} is exceeded.",
        code=RATE_LIMITED,
        headers={"Retry-After": str(math.ceil(reset_in))},
        limit=limit,
    )


def _check(request: Request, installation_id: str, body: object) -> Response:
    problem = _problem(request, installation_id, body)
    return Response(status_code=201) if problem is None else refuse(400, f"Invalid request: {problem}.")


def _problem_of_path(request: Request, installation_id: str) -> str | None:
    if not _ID.fullmatch(installation_id):
        return "an installation id is 1 to 128 of A-Z a-z 0-9 _ -"
    return "the endpoint has no query parameters" if request.scope["query_string"] else None


def _problem(request: Request, installation_id: str, body: object) -> str | None:
    if (problem := _problem_of_path(request, installation_id)) is not None:
        return problem
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        return "the content type must be application/json"
    if not isinstance(body, dict):
        return f"the body must be a JSON object in UTF-8, of at most {MAX_BODY_BYTES} bytes"
    try:
        _BODY.validate_python(body)
    except ValidationError as error:
        return "; ".join(map(_describe, error.errors(include_url=False, include_input=False)))
    return None


def _describe(error: ErrorDetails) -> str:
    where = ".".join(str(part) for part in error["loc"] if part not in _TYPES)
    return f"{where}: {error['msg']}"
