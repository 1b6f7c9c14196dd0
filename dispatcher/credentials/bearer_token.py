"""A bearer token as it is found: valid, absent, or not to be had at present."""

import re

from pydantic import SecretStr

_INSTALLATION_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")
_TOKEN = re.compile(r"[\x21-\x7e]{1,512}")


class NoCredential(Exception):
    """The installation has no usable credential. The text is one line for a person and never holds a secret."""


class CredentialsUnavailable(Exception):
    """The source of credentials cannot be asked at present, which is no fault of the installation. Text as above."""


def check_installation_id(installation_id: str) -> None:
    """Raises NoCredential for an id that could lead elsewhere than to its own token."""
    if not _INSTALLATION_ID.fullmatch(installation_id):
        raise NoCredential("an installation id that is not made of A-Z a-z 0-9 _ - has no credential")


def check_token(raw: str | bytes, source: str) -> SecretStr:
    """The token in `raw`, without white space around it. Raises NoCredential that names `source`, never the value."""
    text = raw.decode("latin-1") if isinstance(raw, bytes) else raw
    token = text.strip(" \t\r\n")
    if not token:
        raise NoCredential(f"{source} is empty: store the installation's access token there")
    if not _TOKEN.fullmatch(token):
        raise NoCredential(f"{source} holds no bearer token: it must be 1 to 512 visible ASCII characters on one line")
    return SecretStr(token)
