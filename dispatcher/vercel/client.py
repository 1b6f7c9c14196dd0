"""Vercel's endpoints of an installation, "Create Event" and "Get Account Information": one request → one `Outcome`."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from http import HTTPStatus
from importlib.metadata import PackageNotFoundError, version
from urllib.parse import quote, urlsplit

from pydantic import SecretStr

from dispatcher.outbox.events import INSTALLATION_ID, INSTALLATION_ID_LENGTH
from dispatcher.policy.outcome import Outcome, OutcomeKind
from dispatcher.settings.values import BEARER_TOKEN
from dispatcher.transport import NotConnected, Reply, Request, Transport, describe_failure
from dispatcher.transport.redaction import clean
from dispatcher.vercel.error_body import MAX_BODY_BYTES, ErrorBody, read_error_body
from dispatcher.vercel.rate_headers import (
    RATE_HEADERS,
    RATE_WINDOW_HEADERS,
    rate_remaining,
    rate_reset,
    rate_wait,
    retry_after,
)

_MAX_PREPARED_REQUESTS = 4_096
_MAX_ID_LENGTH = 128
_MAX_LOCATION_LENGTH = 200
_READ_HEADERS = (*RATE_HEADERS, "content-encoding", "location", "x-vercel-id")
_DISABLED_CODE = "integration_configuration_disabled"
_RETRYABLE_STATUSES = {408, 409, 423, 425}


@dataclass(frozen=True, slots=True)
class _Prepared:
    """The part of a request that is the same for every request about an installation."""

    url: str
    """To be followed by the name of the endpoint."""
    headers: Mapping[str, str]


class Vercel:
    """Sends events to `base_url`. `request_timeout` is a hard deadline for the whole request, in seconds.

    `clock` returns monotonic seconds, `wall_clock` epoch seconds (for rate headers in an answer without `Date`). The caller closes the
    transport.
    """

    def __init__(
        self,
        base_url: str,
        transport: Transport,
        request_timeout: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._base_url = base_url.rstrip("/")
        self._host = urlsplit(base_url).hostname or ""
        self._transport = transport
        self._request_timeout = request_timeout
        self._clock = clock
        self._wall_clock = wall_clock
        self._user_agent = _user_agent()
        self._prepare = lru_cache(maxsize=_MAX_PREPARED_REQUESTS)(self._prepare_anew)

    async def send(self, installation_id: str, event_body: bytes, token: SecretStr) -> Outcome:
        """Posts one event and returns the outcome. `event_body` is the JSON document `{"event": …}`, sent as it is.

        Errors of the network and the server are outcomes, not exceptions. If the call is cancelled, the event may have arrived.
        """
        return await self._request("POST", "events", installation_id, event_body, token)

    async def read_account(self, installation_id: str, token: SecretStr) -> Outcome:
        """Asks for the installation's account, which changes nothing. If the token is valid, the outcome is DELIVERED.

        Errors are outcomes, as those of `send` are.
        """
        return await self._request("GET", "account", installation_id, b"", token)

    async def _request(
        self, method: str, endpoint: str, installation_id: str, body: bytes, token: SecretStr
    ) -> Outcome:
        secret = token.get_secret_value()
        prepared = self._prepare(installation_id, secret)
        if isinstance(prepared, Outcome):
            return prepared
        started = self._clock()
        try:
            reply = await self._transport.exchange(
                Request(
                    prepared.url + endpoint,
                    prepared.headers,
                    body,
                    timeout=self._request_timeout,
                    limit=MAX_BODY_BYTES,
                    read_headers=_READ_HEADERS,
                    method=method,
                )
            )
        except Exception as error:  # noqa: BLE001 - whatever a transport raises, there is no answer
            return self._judge_failure(error, secret, self._clock() - started)
        return self._judge(reply, secret, self._clock() - started)

    def _prepare_anew(self, installation_id: str, secret: str) -> _Prepared | Outcome:
        if not INSTALLATION_ID.fullmatch(installation_id):
            shown = clean(installation_id, secret, _MAX_ID_LENGTH)
            error = f"{shown!r} is not an installation id: only 1 to {INSTALLATION_ID_LENGTH} of A-Z a-z 0-9 _ - can be sent"
            return Outcome(OutcomeKind.REJECTED, error=error)
        if not BEARER_TOKEN.fullmatch(secret):
            error = f"the credential of {installation_id} is not a bearer token: it must be 1 to 512 visible ASCII characters"
            return Outcome(OutcomeKind.NO_CREDENTIAL, error=error)
        url = f"{self._base_url}/v1/installations/{quote(installation_id, safe='')}/"
        headers = {
            "authorization": f"Bearer {secret}",
            "content-type": "application/json",
            "accept": "application/json",
            "accept-encoding": "identity",
            "user-agent": self._user_agent,
        }
        return _Prepared(url, headers)

    def _judge_failure(self, error: Exception, secret: str, duration: float) -> Outcome:
        kind = OutcomeKind.TIMEOUT if isinstance(error, TimeoutError) else OutcomeKind.UNREACHABLE
        failure = describe_failure(error, self._host, self._request_timeout)
        connected = not isinstance(error, NotConnected)
        return Outcome(kind, error=clean(failure, secret), duration=duration, connected=connected)

    def _judge(self, reply: Reply, secret: str, duration: float) -> Outcome:
        headers = reply.headers
        vercel_id = headers.get("x-vercel-id")
        shown_id = clean(vercel_id, secret, _MAX_ID_LENGTH) if vercel_id else None
        if 200 <= reply.status < 300 and not reply.body and headers.keys().isdisjoint(RATE_WINDOW_HEADERS):
            return Outcome(OutcomeKind.DELIVERED, reply.status, None, None, duration, shown_id)
        now = self._wall_clock()
        body = read_error_body(reply.body, headers.get("content-encoding", "")) if reply.body else ErrorBody()
        kind = classify(reply.status, body.code)
        return Outcome(
            kind,
            status=reply.status,
            error_code=clean(body.code, secret, _MAX_ID_LENGTH) if body.code else None,
            error=None if kind is OutcomeKind.DELIVERED else self._describe_answer(reply, body, secret),
            duration=duration,
            vercel_id=shown_id,
            retry_after=_hint(kind, headers, body, now),
            rate_remaining=rate_remaining(headers),
            rate_reset=rate_reset(headers, now),
        )

    def _describe_answer(self, reply: Reply, body: ErrorBody, secret: str) -> str:
        if 300 <= reply.status < 400:
            location = clean(reply.headers.get("location", "nowhere"), secret, _MAX_LOCATION_LENGTH)
            return (
                f"redirected to {location}; redirects are never followed, because they would expose the credential: "
                f"correct DISPATCHER_VERCEL_BASE_URL (now {self._base_url})"
            )
        if not 200 <= reply.status < 600:
            return f"{self._host} answered with status {reply.status}, which is not a valid final HTTP status"
        message = clean(body.message or "", secret)
        return message or f"{_phrase(reply.status)} (the answer has no further details)"


def classify(status: int, error_code: str | None = None) -> OutcomeKind:
    """Returns the kind of outcome that an answer means."""
    match status:
        case _ if 200 <= status < 300:
            return OutcomeKind.DELIVERED
        case 403 if error_code == _DISABLED_CODE:
            return OutcomeKind.DISABLED
        case 401 | 403:
            return OutcomeKind.UNAUTHORIZED
        case 404 | 410:
            return OutcomeKind.GONE
        case 429:
            return OutcomeKind.THROTTLED
        case _ if status in _RETRYABLE_STATUSES or 500 <= status < 600:
            return OutcomeKind.FAILED
        case _ if 300 <= status < 500:
            return OutcomeKind.REJECTED
    return OutcomeKind.UNREACHABLE


def _hint(kind: OutcomeKind, headers: Mapping[str, str], body: ErrorBody, now: float) -> float | None:
    match kind:
        case OutcomeKind.THROTTLED:
            return rate_wait(headers, body.limit, now)
        case OutcomeKind.FAILED:
            return retry_after(headers, now)
    return None


def _phrase(status: int) -> str:
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return f"status {status}"


def _user_agent() -> str:
    try:
        return f"vercel-outbox-dispatcher/{version('vercel-outbox-dispatcher')}"
    except PackageNotFoundError:  # run from a checkout that is not installed
        return "vercel-outbox-dispatcher"
