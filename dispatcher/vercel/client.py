"""Vercel's "Create Event" endpoint: one request → one `Outcome`."""

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from http import HTTPStatus
from importlib.metadata import PackageNotFoundError, version
from urllib.parse import quote, urlsplit

from pydantic import SecretStr

from dispatcher.policy.outcome import Outcome, OutcomeKind
from dispatcher.transport import NotConnected, Reply, Request, Transport, describe_failure
from dispatcher.transport.redaction import clean
from dispatcher.vercel.error_body import LONGEST_BODY, ErrorBody, read_error_body
from dispatcher.vercel.rate_headers import rate_remaining, rate_reset, rate_wait, retry_after

_INSTALLATION_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")
_SENDABLE_TOKEN = re.compile(r"[\x21-\x7e]{1,512}")
_PREPARED_REQUESTS = 4_096
_LONGEST_ID = 128
_LONGEST_LOCATION = 200
_DISABLED_CODE = "integration_configuration_disabled"
_RETRYABLE = {408, 409, 423, 425}


@dataclass(frozen=True, slots=True)
class _Prepared:
    url: str
    headers: Mapping[str, str]


class Vercel:
    """Sends events to the Vercel behind `base_url`; a request takes at most `request_timeout` seconds, come what may.

    `clock` gives monotonic seconds, `wall_clock` epoch seconds (for hints in an answer without `Date`). The transport
    stays the caller's to close.
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
        self._prepare = lru_cache(maxsize=_PREPARED_REQUESTS)(self._prepare_anew)

    async def send(self, installation_id: str, event_body: bytes, token: SecretStr) -> Outcome:
        """Posts one event and says what it came to; `event_body` is the JSON document `{"event": …}` as it goes out.

        Raises nothing for what the network or the server does. Cancellation passes; the event may have arrived by then.
        """
        secret = token.get_secret_value()
        prepared = self._prepare(installation_id, secret)
        if isinstance(prepared, Outcome):
            return prepared
        started = self._clock()
        try:
            reply = await self._transport.post(
                Request(prepared.url, prepared.headers, event_body, self._request_timeout, LONGEST_BODY)
            )
        except Exception as error:  # noqa: BLE001 - whatever a transport raises, the request came to nothing that is known
            return self._judge_failure(error, secret, self._clock() - started)
        return self._judge(reply, secret, self._clock() - started)

    def _prepare_anew(self, installation_id: str, secret: str) -> _Prepared | Outcome:
        if not _INSTALLATION_ID.fullmatch(installation_id):
            shown = clean(installation_id, secret, _LONGEST_ID)
            error = f"{shown!r} is not an installation id: only 1 to 128 of A-Z a-z 0-9 _ - can be sent"
            return Outcome(OutcomeKind.REJECTED, error=error)
        if not _SENDABLE_TOKEN.fullmatch(secret):
            error = (
                f"the credential of {installation_id} is no bearer token: it must be 1 to 512 visible ASCII characters"
            )
            return Outcome(OutcomeKind.NO_CREDENTIAL, error=error)
        url = f"{self._base_url}/v1/installations/{quote(installation_id, safe='')}/events"
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
        why = describe_failure(error, self._host, self._request_timeout)
        connected = not isinstance(error, NotConnected)
        return Outcome(kind, error=clean(why, secret), duration=duration, connected=connected)

    def _judge(self, reply: Reply, secret: str, duration: float) -> Outcome:
        now = self._wall_clock()
        headers = reply.headers
        body = read_error_body(reply.body, headers.get("content-encoding", "")) if reply.body else ErrorBody()
        kind = classify(reply.status, body.code)
        vercel_id = headers.get("x-vercel-id")
        return Outcome(
            kind,
            status=reply.status,
            error_code=clean(body.code, secret, _LONGEST_ID) if body.code else None,
            error=None if kind is OutcomeKind.DELIVERED else self._explain(reply, body, secret),
            duration=duration,
            vercel_id=clean(vercel_id, secret, _LONGEST_ID) if vercel_id else None,
            retry_after=_hint(kind, headers, body, now),
            rate_remaining=rate_remaining(headers),
            rate_reset=rate_reset(headers, now),
        )

    def _explain(self, reply: Reply, body: ErrorBody, secret: str) -> str:
        if 300 <= reply.status < 400:
            location = clean(reply.headers.get("location", "nowhere"), secret, _LONGEST_LOCATION)
            return (
                f"redirected to {location}; redirects are never followed, the credential would travel: "
                f"correct DISPATCHER_VERCEL_BASE_URL (now {self._base_url})"
            )
        if not 200 <= reply.status < 600:
            return f"{self._host} answered with status {reply.status}, which is no answer to a request"
        said = clean(body.message or "", secret)
        return said or f"{_phrase(reply.status)} (the answer says nothing more)"


def classify(status: int, error_code: str | None = None) -> OutcomeKind:
    """What a status means."""
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
        case _ if status in _RETRYABLE or 500 <= status < 600:
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
