"""Short-lived tokens from an OAuth 2.0 `client_credentials` grant (RFC 6749, section 4.4), one per installation."""

import asyncio
import json
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from pydantic import SecretStr
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from dispatcher.credentials.bearer_token import CredentialsUnavailable, NoCredential, check_token
from dispatcher.credentials.token_cache import Found, TokenCache
from dispatcher.transport import Transport, TransportFailed, post_form
from dispatcher.transport.redaction import clean

_MAX_TRIES = 3
_FIRST_PAUSE_SECONDS = 0.25
_MAX_ANSWER_BYTES = 65_536
_MAX_CODE_LENGTH = 64
_MAX_MARGIN_SECONDS = 60.0
"""A token is renewed this long before it expires, or a tenth of its lifetime before if that is shorter."""
_SECONDS = re.compile(r"[0-9]{1,9}")
# Refusals that concern the installation. Any other may be due to the client's secret, the URL or the endpoint.
_REFUSALS = {"invalid_grant", "invalid_target", "access_denied"}


@dataclass(frozen=True, slots=True)
class Grant:
    """The token endpoint, the client's credentials and further form fields. `{installation_id}` in the values of `params` is replaced."""

    url: str
    client_id: str
    client_secret: SecretStr
    params: Mapping[str, str] = field(default_factory=dict)

    def fields(self, installation_id: str) -> dict[str, str]:
        """Returns the form fields of a request for the token of an installation."""
        filled = {name: value.replace("{installation_id}", installation_id) for name, value in self.params.items()}
        secret = self.client_secret.get_secret_value()
        own = {"grant_type": "client_credentials", "client_id": self.client_id, "client_secret": secret}
        return own | filled


class _TryAgain(Exception):
    """The token endpoint failed, possibly only for a moment."""


class OAuthCredentials:
    """Keeps each token until shortly before it expires, or for `ttl` seconds if the endpoint does not give its lifetime.

    A look-up makes up to 3 requests and takes at most `timeout` seconds plus the pauses between them (less than 1 s in total).
    """

    def __init__(
        self,
        transport: Transport,
        grant: Grant,
        *,
        timeout: float,
        ttl: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._transport = transport
        self._grant = grant
        self._timeout = timeout
        self._ttl = ttl
        self._sleep = sleep
        self._host = urlsplit(grant.url).hostname or grant.url
        self._cache = TokenCache(self._find, clock)

    def is_at_hand(self, installation_id: str) -> bool:
        return self._cache.has(installation_id)

    async def token(self, installation_id: str, *, refused: SecretStr | None = None) -> SecretStr:
        return await self._cache.get(installation_id, refused=refused)

    async def aclose(self) -> None:
        await self._cache.aclose()

    async def _find(self, installation_id: str) -> Found:
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(_TryAgain),
            stop=stop_after_attempt(_MAX_TRIES),
            wait=wait_random_exponential(multiplier=_FIRST_PAUSE_SECONDS),
            sleep=self._sleep,
            reraise=True,
        )
        try:
            found: Found = await retrying(self._request_token, installation_id)
        except _TryAgain as error:
            raise CredentialsUnavailable(f"the OAuth token endpoint failed {_MAX_TRIES} times: {error}") from None
        return found

    async def _request_token(self, installation_id: str) -> Found:
        fields = self._grant.fields(installation_id)
        try:
            status, body = await post_form(
                self._transport, self._grant.url, fields, timeout=self._timeout / _MAX_TRIES, limit=_MAX_ANSWER_BYTES
            )
        except TransportFailed as error:
            raise _TryAgain(str(error)) from None
        if status in (408, 429) or status >= 500:
            raise _TryAgain(f"{self._host} answered {status}")
        answer = _read_object(body)
        if status != 200:
            raise self._refusal(status, answer, installation_id)
        return self._accept(answer)

    def _accept(self, answer: Mapping[str, Any]) -> Found:
        token = answer.get("access_token")
        if not isinstance(token, str):
            raise CredentialsUnavailable(f"the OAuth token endpoint {self._host} answered 200 without an access_token")
        try:
            return Found(check_token(token, f"the access_token from {self._host}"), self._good_for(answer))
        except NoCredential as error:
            raise CredentialsUnavailable(str(error)) from None

    def _good_for(self, answer: Mapping[str, Any]) -> float:
        text = str(answer.get("expires_in"))
        if not _SECONDS.fullmatch(text):
            return self._ttl
        seconds = float(text)
        return seconds - min(_MAX_MARGIN_SECONDS, seconds / 10)

    def _refusal(self, status: int, answer: Mapping[str, Any], installation_id: str) -> Exception:
        error = answer.get("error")
        secret = self._grant.client_secret.get_secret_value()
        code = clean(error, secret, _MAX_CODE_LENGTH) if isinstance(error, str) else ""
        refusal = f"{status} {code}".rstrip()
        if code in _REFUSALS:
            return NoCredential(
                f"the OAuth token endpoint {self._host} refused a token for {installation_id}: {refusal}"
            )
        return CredentialsUnavailable(
            f"the OAuth token endpoint {self._host} answered {refusal}: check DISPATCHER_OAUTH_TOKEN_URL, "
            "DISPATCHER_OAUTH_CLIENT_ID, DISPATCHER_OAUTH_CLIENT_SECRET and DISPATCHER_OAUTH_PARAMS"
        )


def _read_object(body: bytes) -> Mapping[str, Any]:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}
