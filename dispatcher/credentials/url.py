"""Tokens from a service of the partner's own, which knows how to decrypt or find them: one GET per installation."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from urllib.parse import quote

from pydantic import SecretStr
from typing_extensions import override

from dispatcher.credentials.bearer_token import CredentialsUnavailable, NoCredential, check_installation_id
from dispatcher.credentials.token_cache import Found
from dispatcher.credentials.token_service import MAX_ANSWER_BYTES, TokenService, parse_json
from dispatcher.settings.urls import INSTALLATION_FIELD
from dispatcher.transport import Transport, get

_TOKEN_FIELDS = ("token", "access_token")


class UrlCredentials(TokenService):
    """Requests each installation's token from `url`, in which `{installation_id}` is replaced, with `secret` as the bearer token.

    200 carries the token: as text, as a JSON string, or as `token` or `access_token` of a JSON object, there optionally with
    `expires_in` (seconds). 404 or a null instead of the token: the installation has none. Anything else is a failure of the service.
    """

    name = "the token service"

    def __init__(
        self,
        transport: Transport,
        url: str,
        secret: SecretStr | None = None,
        *,
        timeout: float,
        ttl: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        super().__init__(transport, url, secret, timeout=timeout, ttl=ttl, clock=clock, sleep=sleep)
        self._url = url
        self._headers = {} if secret is None else {"authorization": f"Bearer {secret.get_secret_value()}"}

    @override
    async def token(self, installation_id: str, *, refused: SecretStr | None = None) -> SecretStr:
        check_installation_id(installation_id)
        return await super().token(installation_id, refused=refused)

    @override
    async def request(self, installation_id: str) -> tuple[int, bytes]:
        url = self._url.replace(INSTALLATION_FIELD, quote(installation_id, safe=""))
        return await get(self.transport, url, self._headers, timeout=self.timeout, limit=MAX_ANSWER_BYTES)

    @override
    def read(self, status: int, body: bytes, installation_id: str) -> Found:
        if status == 404:
            raise NoCredential(
                f"{self.name} {self.host} answered 404 for {installation_id}: store the installation's access token there. If it"
                " answers 404 for every installation, correct the path in DISPATCHER_CREDENTIALS_URL"
            )
        if status != 200:
            raise CredentialsUnavailable(f"{self.name} {self.host} answered {status}: {_advise(status)}")
        token, expires_in = _read_answer(body)
        if token is None:
            raise NoCredential(
                f"{self.name} {self.host} answered null for {installation_id}: store the installation's access token there"
            )
        if not isinstance(token, str):
            raise CredentialsUnavailable(
                f"{self.name} {self.host} answered 200 without a token: it must answer the token as text, or as JSON like"
                ' {"token": "…"}'
            )
        return self.accept(token, expires_in)


def _read_answer(body: bytes) -> tuple[object, object]:
    """Returns the token, None if it is null, and its lifetime. A token that is not text is not one."""
    match parse_json(body):
        case dict() as answer:
            field = next((name for name in _TOKEN_FIELDS if name in answer), None)
            return (answer[field] if field else answer), answer.get("expires_in")
        case bool() | list() as other:
            return other, None
        case int() | float():  # a text of digits
            return body.decode(), None
        case token:
            return token, None


def _advise(status: int) -> str:
    if status in (401, 403):
        return "check DISPATCHER_CREDENTIALS_URL_TOKEN"
    if 300 <= status < 400:
        return "redirects are never followed, because they would expose the secret; correct DISPATCHER_CREDENTIALS_URL"
    return "it must answer 200 with the token, or 404 if there is none; check DISPATCHER_CREDENTIALS_URL"
