"""Which bearer token speaks for an installation: one for all, a file each, the partner's own table, or OAuth."""

import stat
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pydantic import SecretStr

from dispatcher.credentials.bearer_token import CredentialsUnavailable, NoCredential, check_installation_id, check_token
from dispatcher.credentials.oauth import Grant, OAuthCredentials
from dispatcher.credentials.query import QueryCredentials
from dispatcher.credentials.token_cache import KEPT_TOKENS
from dispatcher.database.transactions import open_database
from dispatcher.settings.settings import Settings, SettingsError
from dispatcher.transport import Transport

__all__ = [
    "Credentials",
    "CredentialsUnavailable",
    "DirectoryCredentials",
    "NoCredential",
    "OAuthCredentials",
    "QueryCredentials",
    "StaticCredentials",
    "open_credentials",
]

_LARGEST_FILE = 4_096


class Credentials(Protocol):
    """Finds tokens."""

    def is_at_hand(self, installation_id: str) -> bool:
        """Whether `token` waits for nobody, as far as can be told."""

    async def token(self, installation_id: str, *, refused: SecretStr | None = None) -> SecretStr:
        """Returns the token of an installation; if the one that is kept was `refused`, what its source says now.

        Raises NoCredential or CredentialsUnavailable."""

    async def aclose(self) -> None:
        """Ends what is under way; no token can be asked for afterwards."""


def open_credentials(settings: Settings, transport: Transport) -> Credentials:
    """The source that the settings name. Raises SettingsError if they name none, or one that cannot work."""
    if settings.vercel_token is not None:
        return StaticCredentials(settings.vercel_token, settings.file_of("vercel_token"))
    if settings.credentials_dir is not None:
        return DirectoryCredentials(Path(settings.credentials_dir))
    if settings.credentials_query is not None:
        # Connections of its own: the worker must not wait for those that wait for a partner's table.
        database = open_database(settings.database_url.get_secret_value(), settings.database_schema)
        return QueryCredentials(
            database, settings.credentials_query, settings.credentials_ttl, deadline=settings.request_timeout
        )
    if settings.oauth_token_url and settings.oauth_client_id and settings.oauth_client_secret:
        params = settings.oauth_params or {}
        grant = Grant(settings.oauth_token_url, settings.oauth_client_id, settings.oauth_client_secret, params)
        return OAuthCredentials(transport, grant, timeout=settings.request_timeout, ttl=settings.credentials_ttl)
    raise SettingsError(
        "no credentials are configured: set DISPATCHER_VERCEL_TOKEN, DISPATCHER_CREDENTIALS_DIR, "
        "DISPATCHER_CREDENTIALS_QUERY or DISPATCHER_OAUTH_TOKEN_URL with its companions"
    )


class StaticCredentials:
    """One token for all installations; when it was refused it is read again from `path`, if it came from a file."""

    def __init__(self, token: SecretStr, path: Path | None = None) -> None:
        self._token = token
        self._path = path

    def is_at_hand(self, installation_id: str) -> bool:
        return True

    async def token(self, installation_id: str, *, refused: SecretStr | None = None) -> SecretStr:
        if refused is not None and self._path is not None:
            self._token = _read_token(self._path, _look(self._path))
        return self._token

    async def aclose(self) -> None:
        pass


class DirectoryCredentials:
    """A file per installation, named by its id. A file that was changed or swapped (symlinks too) is read again."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._kept: OrderedDict[str, tuple[_Version, SecretStr]] = OrderedDict()

    def is_at_hand(self, installation_id: str) -> bool:
        return True

    async def token(self, installation_id: str, *, refused: SecretStr | None = None) -> SecretStr:
        check_installation_id(installation_id)
        try:
            return self._find(installation_id, refresh=refused is not None)
        except NoCredential:
            if not self._directory.is_dir():
                raise CredentialsUnavailable(f"the credentials directory {self._directory} is not there") from None
        return self._find(installation_id, refresh=True)  # the first look may have fallen into a swap

    async def aclose(self) -> None:
        self._kept.clear()

    def _find(self, installation_id: str, refresh: bool) -> SecretStr:
        path = self._directory / installation_id
        version = _look(path)
        kept = self._kept.pop(installation_id, None)
        if kept is None or refresh or kept[0] != version:
            kept = (version, _read_token(path, version))
        self._kept[installation_id] = kept
        if len(self._kept) > KEPT_TOKENS:
            self._kept.popitem(last=False)
        return kept[1]


@dataclass(frozen=True, slots=True)
class _Version:
    inode: int
    size: int
    modified: int


def _look(path: Path) -> _Version:
    try:
        seen = path.stat()
    except FileNotFoundError:
        raise NoCredential(f"there is no credentials file {path}") from None
    except OSError as error:
        raise CredentialsUnavailable(f"the credentials file {path} cannot be read: {error.strerror}") from None
    if not stat.S_ISREG(seen.st_mode):
        raise NoCredential(f"{path} is not a file")
    return _Version(seen.st_ino, seen.st_size, seen.st_mtime_ns)


def _read_token(path: Path, version: _Version) -> SecretStr:
    if version.size > _LARGEST_FILE:
        raise NoCredential(
            f"the file {path} is larger than {_LARGEST_FILE} bytes: it must hold a token and nothing else"
        )
    try:
        return check_token(path.read_bytes(), f"the file {path}")
    except OSError as error:  # a swap may take it away between the look and the read
        raise CredentialsUnavailable(f"the credentials file {path} cannot be read: {error.strerror}") from None
