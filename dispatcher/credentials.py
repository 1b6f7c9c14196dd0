"""Which bearer token speaks for an installation: one for all, a file each, the partner's own table, or OAuth."""

import asyncio
import re
import stat
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import sqlalchemy as sa
from pydantic import SecretStr
from sqlalchemy.exc import SQLAlchemyError

from dispatcher.bearer_token import CredentialsUnavailable, NoCredential, check_token
from dispatcher.database import error_code
from dispatcher.masking import mask_query
from dispatcher.oauth import Grant, OAuthCredentials
from dispatcher.settings import Settings, SettingsError, describe
from dispatcher.token_cache import KEPT_TOKENS, Found, TokenCache
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

_INSTALLATION_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")
_LARGEST_FILE = 4_096


class Credentials(Protocol):
    """Finds tokens."""

    async def token(self, installation_id: str, *, refused: SecretStr | None = None) -> SecretStr:
        """Returns the token of an installation; if the one that is kept was `refused`, what its source says now.

        Raises NoCredential or CredentialsUnavailable."""

    async def aclose(self) -> None:
        """Ends what is under way; no token can be asked for afterwards."""


def open_credentials(settings: Settings, engine: sa.Engine, transport: Transport) -> Credentials:
    """The source that the settings name. Raises SettingsError if they name none, or one that cannot work."""
    if settings.vercel_token is not None:
        return StaticCredentials(settings.vercel_token, _token_file(settings))
    if settings.credentials_dir is not None:
        return DirectoryCredentials(Path(settings.credentials_dir))
    if settings.credentials_query is not None:
        return QueryCredentials(engine, settings.credentials_query, settings.credentials_ttl)
    if settings.oauth_token_url and settings.oauth_client_id and settings.oauth_client_secret:
        params = settings.oauth_params or {}
        grant = Grant(settings.oauth_token_url, settings.oauth_client_id, settings.oauth_client_secret, params)
        return OAuthCredentials(transport, grant, timeout=settings.request_timeout, ttl=settings.credentials_ttl)
    raise SettingsError(
        "no credentials are configured: set DISPATCHER_VERCEL_TOKEN, DISPATCHER_CREDENTIALS_DIR, "
        "DISPATCHER_CREDENTIALS_QUERY or DISPATCHER_OAUTH_TOKEN_URL with its companions"
    )


def _token_file(settings: Settings) -> Path | None:
    source = next(line.source for line in describe(settings) if line.name == "DISPATCHER_VERCEL_TOKEN")
    return Path(source.removeprefix("file ")) if source.startswith("file ") else None


class StaticCredentials:
    """One token for all installations; when it was refused it is read again from `path`, if it came from a file."""

    def __init__(self, token: SecretStr, path: Path | None = None) -> None:
        self._token = token
        self._path = path

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

    async def token(self, installation_id: str, *, refused: SecretStr | None = None) -> SecretStr:
        _check_id(installation_id)
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


class QueryCredentials:
    """The one value that a query on the partner's tables gives for `:installation_id`, kept for `ttl` seconds.

    The query runs in a thread, in a transaction of its own that is always rolled back. Raises SettingsError.
    """

    def __init__(
        self, engine: sa.Engine, query: str, ttl: float, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._engine = engine.execution_options(reads_only=True)
        self._query = sa.text(query)
        self._ttl = ttl
        self._cache = TokenCache(self._find, clock)
        if others := self._query.compile().params.keys() - {"installation_id"}:
            shown = next(
                (f":{name}" for name in sorted(others) if f":{name}" in mask_query(query)), "a : within quotes"
            )
            raise SettingsError(
                f"DISPATCHER_CREDENTIALS_QUERY uses {shown}, but only :installation_id is filled in: "
                r"write \: for a colon that means itself"
            )

    async def token(self, installation_id: str, *, refused: SecretStr | None = None) -> SecretStr:
        _check_id(installation_id)
        return await self._cache.get(installation_id, refused=refused)

    async def aclose(self) -> None:
        await self._cache.aclose()

    async def _find(self, installation_id: str) -> Found:
        value = await asyncio.to_thread(self._fetch, installation_id)
        source = f"what DISPATCHER_CREDENTIALS_QUERY finds for {installation_id}"
        match value:
            case str():
                return Found(check_token(value, source), self._ttl)
            case bytes() | bytearray() | memoryview():
                return Found(check_token(bytes(value), source), self._ttl)
            case None:
                raise NoCredential(f"{source} is NULL: store the installation's access token there")
        raise NoCredential(f"{source} is of type {type(value).__name__}: it must be text")

    def _fetch(self, installation_id: str) -> object:
        try:
            connection = self._engine.connect()
        except SQLAlchemyError as error:
            raise CredentialsUnavailable(
                f"DISPATCHER_CREDENTIALS_QUERY failed: the database cannot be reached ({error_code(error)})"
            ) from None
        try:
            with connection:
                rows = connection.execute(self._query, {"installation_id": installation_id}).fetchmany(2)
        except (SQLAlchemyError, ValueError) as error:  # ValueError: a driver could not decode what it was sent
            raise CredentialsUnavailable(
                f"DISPATCHER_CREDENTIALS_QUERY failed ({error_code(error)}): run it in the database's own client to see"
                " why; the database's message is not shown, because it can repeat a token"
            ) from None
        return _only_value(rows, installation_id)


def _only_value(rows: Sequence[sa.Row[Any]], installation_id: str) -> object:
    if not rows:
        raise NoCredential(f"DISPATCHER_CREDENTIALS_QUERY finds no row for {installation_id}")
    if len(rows[0]) != 1:
        raise CredentialsUnavailable(
            f"DISPATCHER_CREDENTIALS_QUERY gives {len(rows[0])} columns: select the token alone"
        )
    if len(rows) > 1:
        raise NoCredential(f"DISPATCHER_CREDENTIALS_QUERY finds several rows for {installation_id}: it must give one")
    return rows[0][0]


def _check_id(installation_id: str) -> None:
    if not _INSTALLATION_ID.fullmatch(installation_id):
        raise NoCredential("an installation id that is not made of A-Z a-z 0-9 _ - has no credential")


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
