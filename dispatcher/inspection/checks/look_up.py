"""One installation whose token is looked up, and the result."""

from dataclasses import dataclass

from pydantic import SecretStr

from dispatcher.credentials.sources import Credentials, CredentialsUnavailable, NoCredential


@dataclass(frozen=True, slots=True)
class Candidate:
    """An installation to try."""

    installation_id: str
    is_idle: bool = False
    """Whether nothing waits for it. It may have been uninstalled, so a missing or refused token is no problem."""


@dataclass(frozen=True, slots=True)
class LookUp:
    """The token of an installation, or why there is none."""

    candidate: Candidate
    token: SecretStr | None = None
    why_not: NoCredential | CredentialsUnavailable | None = None


async def look_up(credentials: Credentials, candidate: Candidate) -> LookUp:
    """Looks the token up in its source."""
    try:
        return LookUp(candidate, await credentials.token(candidate.installation_id))
    except (NoCredential, CredentialsUnavailable) as error:
        return LookUp(candidate, why_not=error)
