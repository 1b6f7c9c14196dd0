"""The sources of bearer tokens: one token for all installations, a file for each, the partner's own table or service, or OAuth."""

from pathlib import Path
from typing import Protocol

from pydantic import SecretStr

from dispatcher.credentials.bearer_token import CredentialsUnavailable, NoCredential
from dispatcher.credentials.files import DirectoryCredentials, StaticCredentials
from dispatcher.credentials.oauth import Grant, OAuthCredentials
from dispatcher.credentials.query import QueryCredentials
from dispatcher.credentials.url import UrlCredentials
from dispatcher.database.transactions import open_database
from dispatcher.settings.settings import Settings, SettingsError
from dispatcher.transport import Network, open_general_transport

__all__ = [
    "Credentials",
    "CredentialsUnavailable",
    "DirectoryCredentials",
    "NoCredential",
    "OAuthCredentials",
    "QueryCredentials",
    "StaticCredentials",
    "UrlCredentials",
    "open_credentials",
]


class Credentials(Protocol):
    """A source of tokens."""

    def is_at_hand(self, installation_id: str) -> bool:
        """Whether `token` is expected to return without waiting."""

    async def token(self, installation_id: str, *, refused: SecretStr | None = None) -> SecretStr:
        """Returns the token of an installation, read from its source again if the kept one is `refused`.

        Raises NoCredential or CredentialsUnavailable.
        """

    async def aclose(self) -> None:
        """Cancels the look-ups in progress. The source cannot be used afterwards."""


def open_credentials(settings: Settings, network: Network) -> Credentials:
    """Opens the source that the settings name. Raises SettingsError if they name none, or one that cannot work."""
    if settings.vercel_token is not None:
        return StaticCredentials(settings.vercel_token, settings.file_of("vercel_token"))
    if settings.credentials_dir is not None:
        return DirectoryCredentials(Path(settings.credentials_dir))
    if settings.credentials_query is not None:
        # Connections of its own, so that the worker never waits for a look-up that waits for the partner's table.
        database = open_database(settings.database_url.get_secret_value(), settings.database_schema)
        return QueryCredentials(
            database,
            settings.credentials_query,
            settings.credentials_ttl,
            deadline=settings.request_timeout,
            max_look_ups=settings.credentials_connections,
        )
    if settings.credentials_url is not None:
        url, secret = settings.credentials_url, settings.credentials_url_token
        return UrlCredentials(
            open_general_transport(network), url, secret, timeout=settings.request_timeout, ttl=settings.credentials_ttl
        )
    if settings.oauth_token_url and settings.oauth_client_id and settings.oauth_client_secret:
        params = settings.oauth_params or {}
        grant = Grant(settings.oauth_token_url, settings.oauth_client_id, settings.oauth_client_secret, params)
        return OAuthCredentials(
            open_general_transport(network), grant, timeout=settings.request_timeout, ttl=settings.credentials_ttl
        )
    raise SettingsError(
        "no credentials are configured: set DISPATCHER_VERCEL_TOKEN, DISPATCHER_CREDENTIALS_DIR, "
        "DISPATCHER_CREDENTIALS_QUERY, DISPATCHER_CREDENTIALS_URL or DISPATCHER_OAUTH_TOKEN_URL with the other DISPATCHER_OAUTH_… settings"
    )
