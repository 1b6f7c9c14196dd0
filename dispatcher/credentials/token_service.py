"""What look-ups over HTTP share: retries, a cache, and the failures that are the service's and not an installation's."""

import asyncio
import json
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

from pydantic import SecretStr
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from dispatcher.credentials.bearer_token import CredentialsUnavailable, NoCredential, check_token
from dispatcher.credentials.token_cache import Found, TokenCache
from dispatcher.transport import Transport, TransportFailed
from dispatcher.transport.redaction import MAX_TEXT_LENGTH, clean

MAX_ANSWER_BYTES = 65_536
_MAX_TRIES = 3
_FIRST_PAUSE_SECONDS = 0.25
_MAX_MARGIN_SECONDS = 60.0
"""A token is renewed this long before it expires, or a tenth of its lifetime before if that is shorter."""
_SECONDS = re.compile(r"[0-9]{1,9}")


class _TryAgain(Exception):
    """The service failed, possibly only for a moment."""


class TokenService(ABC):
    """Requests tokens from `url`. Keeps each until shortly before it expires, or for `ttl` seconds if its lifetime is unknown.

    A look-up makes up to 3 requests and takes at most `timeout` seconds plus the pauses between them (less than 1 s in total). `secret` is
    what the requests are authenticated with; it appears in no error. `transport` is closed with it.
    """

    name: str
    """What the service is called in errors."""

    def __init__(
        self,
        transport: Transport,
        url: str,
        secret: SecretStr | None,
        *,
        timeout: float,
        ttl: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.transport = transport
        self.host = urlsplit(url).hostname or ""
        self.timeout = timeout / _MAX_TRIES
        self._secret = secret
        self._ttl = ttl
        self._sleep = sleep
        self._cache = TokenCache(self._find, clock)

    @abstractmethod
    async def request(self, installation_id: str) -> tuple[int, bytes]:
        """Returns the status and the body of one request. Raises TransportFailed."""

    @abstractmethod
    def read(self, status: int, body: bytes, installation_id: str) -> Found:
        """Returns the token in an answer. Raises NoCredential or CredentialsUnavailable if there is none."""

    def is_at_hand(self, installation_id: str) -> bool:
        return self._cache.has(installation_id)

    async def token(self, installation_id: str, *, refused: SecretStr | None = None) -> SecretStr:
        return await self._cache.get(installation_id, refused=refused)

    async def aclose(self) -> None:
        await self._cache.aclose()
        await self.transport.aclose()

    def accept(self, token: str, expires_in: object) -> Found:
        """Returns the token of an answer, which is good for `expires_in` seconds. Raises CredentialsUnavailable for an unusable one."""
        try:
            checked = check_token(token, f"the answer of {self.name} {self.host}")
        except NoCredential as error:
            raise CredentialsUnavailable(str(error)) from None
        return Found(checked, self._good_for(expires_in))

    def redact(self, text: str, limit: int) -> str:
        """Returns text of the service on one line of at most `limit` characters, without the secret."""
        return clean(text, self._secret.get_secret_value() if self._secret else "", limit)

    async def _find(self, installation_id: str) -> Found:
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(_TryAgain),
            stop=stop_after_attempt(_MAX_TRIES),
            wait=wait_random_exponential(multiplier=_FIRST_PAUSE_SECONDS),
            sleep=self._sleep,
            reraise=True,
        )
        try:
            found: Found = await retrying(self._try, installation_id)
        except _TryAgain as error:
            raise CredentialsUnavailable(f"{self.name} failed {_MAX_TRIES} times: {error}") from None
        return found

    async def _try(self, installation_id: str) -> Found:
        try:
            status, body = await self.request(installation_id)
        except TransportFailed as error:
            raise _TryAgain(self.redact(str(error), MAX_TEXT_LENGTH)) from None
        if status in (408, 429) or status >= 500:
            raise _TryAgain(f"{self.host} answered {status}")
        return self.read(status, body, installation_id)

    def _good_for(self, expires_in: object) -> float:
        text = str(expires_in)
        if not _SECONDS.fullmatch(text):
            return self._ttl
        seconds = float(text)
        return seconds - min(_MAX_MARGIN_SECONDS, seconds / 10)


def parse_json(body: bytes) -> object:
    """Returns the JSON value in a body; the text itself if it is not JSON."""
    text = body.decode("utf-8", errors="replace")
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
