"""What a look-up ends with: a valid token, no token, or a source that cannot be used at present."""

from pydantic import SecretStr

from dispatcher.outbox.events import INSTALLATION_ID
from dispatcher.settings.values import BEARER_TOKEN


class NoCredential(Exception):
    """The installation has no usable credential. The text is one line for a person, without secrets."""


class CredentialsUnavailable(Exception):
    """The source of credentials cannot be used at present; the installation is not to blame. The text is as for NoCredential."""


def check_installation_id(installation_id: str) -> None:
    """Raises NoCredential for a malformed id, which could lead to the token of another installation."""
    if not INSTALLATION_ID.fullmatch(installation_id):
        raise NoCredential("an installation id that is not made of A-Z a-z 0-9 _ - has no credential")


def check_token(raw: str | bytes, source: str) -> SecretStr:
    """Returns the token in `raw`, without surrounding white space. Raises NoCredential, which names `source` but never the value."""
    text = raw.decode("latin-1") if isinstance(raw, bytes) else raw
    token = text.strip(" \t\r\n")
    if not token:
        raise NoCredential(f"{source} is empty: store the installation's access token there")
    if not BEARER_TOKEN.fullmatch(token):
        raise NoCredential(f"{source} holds no bearer token: it must be 1 to 512 visible ASCII characters on one line")
    return SecretStr(token)
