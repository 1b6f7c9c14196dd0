"""Short-lived tokens from an OAuth 2.0 `client_credentials` grant (RFC 6749, section 4.4), one per installation."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import SecretStr
from typing_extensions import override

from dispatcher.credentials.bearer_token import CredentialsUnavailable, NoCredential
from dispatcher.credentials.token_cache import Found
from dispatcher.credentials.token_service import MAX_ANSWER_BYTES, TokenService, parse_json
from dispatcher.transport import Transport, post_form

_MAX_CODE_LENGTH = 64
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


class OAuthCredentials(TokenService):
    """Requests each installation's token from the grant's token endpoint."""

    name = "the OAuth token endpoint"

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
        super().__init__(transport, grant.url, grant.client_secret, timeout=timeout, ttl=ttl, clock=clock, sleep=sleep)
        self._grant = grant

    @override
    async def request(self, installation_id: str) -> tuple[int, bytes]:
        fields = self._grant.fields(installation_id)
        return await post_form(self.transport, self._grant.url, fields, timeout=self.timeout, limit=MAX_ANSWER_BYTES)

    @override
    def read(self, status: int, body: bytes, installation_id: str) -> Found:
        document = parse_json(body)
        answer = document if isinstance(document, dict) else {}
        if status != 200:
            raise self._refusal(status, answer, installation_id)
        token = answer.get("access_token")
        if not isinstance(token, str):
            raise CredentialsUnavailable(f"{self.name} {self.host} answered 200 without an access_token")
        return self.accept(token, answer.get("expires_in"))

    def _refusal(self, status: int, answer: Mapping[str, Any], installation_id: str) -> Exception:
        error = answer.get("error")
        code = self.redact(error, _MAX_CODE_LENGTH) if isinstance(error, str) else ""
        refusal = f"{status} {code}".rstrip()
        if code in _REFUSALS:
            return NoCredential(f"{self.name} {self.host} refused a token for {installation_id}: {refusal}")
        return CredentialsUnavailable(
            f"{self.name} {self.host} answered {refusal}: check DISPATCHER_OAUTH_TOKEN_URL, "
            "DISPATCHER_OAUTH_CLIENT_ID, DISPATCHER_OAUTH_CLIENT_SECRET and DISPATCHER_OAUTH_PARAMS"
        )
