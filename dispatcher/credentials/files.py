"""Tokens from files: one for all installations, or one per installation."""

import stat
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

from pydantic import SecretStr

from dispatcher.credentials.bearer_token import CredentialsUnavailable, NoCredential, check_installation_id, check_token
from dispatcher.credentials.token_cache import MAX_KEPT_TOKENS

_MAX_FILE_BYTES = 4_096


class StaticCredentials:
    """One token for all installations. If it came from the file `path`, it is read again after a refusal."""

    def __init__(self, token: SecretStr, path: Path | None = None) -> None:
        self._token = token
        self._path = path

    def is_at_hand(self, installation_id: str) -> bool:
        return True

    async def token(self, installation_id: str, *, refused: SecretStr | None = None) -> SecretStr:
        if refused is not None and self._path is not None:
            self._token = _read_token(self._path, _read_version(self._path))
        return self._token

    async def aclose(self) -> None:
        pass


class DirectoryCredentials:
    """One file per installation, named by its id. A file is read again once it, or a symbolic link to it, was changed or replaced."""

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
        # The first attempt may have coincided with a swap of the directory.
        return self._find(installation_id, refresh=True)

    async def aclose(self) -> None:
        self._kept.clear()

    def _find(self, installation_id: str, refresh: bool) -> SecretStr:
        path = self._directory / installation_id
        version = _read_version(path)
        kept = self._kept.pop(installation_id, None)
        if kept is None or refresh or kept[0] != version:
            kept = (version, _read_token(path, version))
        self._kept[installation_id] = kept
        if len(self._kept) > MAX_KEPT_TOKENS:
            self._kept.popitem(last=False)
        return kept[1]


@dataclass(frozen=True, slots=True)
class _Version:
    """Changes whenever the file does."""

    inode: int
    size: int
    modified: int


def _read_version(path: Path) -> _Version:
    try:
        status = path.stat()
    except FileNotFoundError:
        raise NoCredential(f"there is no credentials file {path}") from None
    except OSError as error:
        raise CredentialsUnavailable(f"the credentials file {path} cannot be read: {error.strerror}") from None
    if not stat.S_ISREG(status.st_mode):
        raise NoCredential(f"{path} is not a file")
    return _Version(status.st_ino, status.st_size, status.st_mtime_ns)


def _read_token(path: Path, version: _Version) -> SecretStr:
    if version.size > _MAX_FILE_BYTES:
        raise NoCredential(
            f"the file {path} is larger than {_MAX_FILE_BYTES} bytes: it must hold a token and nothing else"
        )
    try:
        return check_token(path.read_bytes(), f"the file {path}")
    except OSError as error:  # a swap may remove it after `_read_version`
        raise CredentialsUnavailable(f"the credentials file {path} cannot be read: {error.strerror}") from None
