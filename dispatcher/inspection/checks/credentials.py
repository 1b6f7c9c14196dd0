"""Checks whether the source of credentials that the settings name provides tokens."""

import sqlalchemy as sa

from dispatcher.credentials.bearer_token import CredentialsUnavailable, NoCredential
from dispatcher.credentials.sources import Credentials, open_credentials
from dispatcher.database.transactions import Database
from dispatcher.inspection.checks.finding import Finding, ok, problem, warning
from dispatcher.outbox.tables import installation
from dispatcher.settings.settings import Settings, SettingsError
from dispatcher.transport import Network, open_transport

MAX_TRIED_INSTALLATIONS = 5
"""At most this many of the known installations are tried."""


async def check_credentials(
    settings: Settings, database: Database, network: Network, installation_id: str | None, *, usable: bool
) -> list[Finding]:
    """Looks up the token of this installation or, without one, of known installations, those with pending work first.

    `usable`: whether the database is usable.
    """
    transport = open_transport(1, network)
    try:
        credentials = open_credentials(settings, transport)
    except SettingsError as error:
        await transport.aclose()
        return [problem("settings", str(error))]
    try:
        if not usable and settings.credentials_query is not None:
            return [warning("credentials", "not tried: DISPATCHER_CREDENTIALS_QUERY needs the database")]
        if settings.vercel_token is not None:
            return [ok("credentials", "there is one token for all installations")]
        tried = [installation_id] if installation_id else _known(database) if usable else []
        findings = await _try(credentials, tried)
        if settings.credentials_query is not None and tried and await _ignores_case(credentials, tried[0]):
            findings.append(_other_case(tried[0]))
        return findings
    finally:
        await credentials.aclose()
        await transport.aclose()


def _known(database: Database) -> list[str]:
    with_work_first = installation.c.due_at.is_(None), installation.c.due_at
    with database.read() as connection:
        rows = connection.execute(
            sa.select(installation.c.installation_id).order_by(*with_work_first).limit(MAX_TRIED_INSTALLATIONS)
        )
        return list(rows.scalars())


async def _try(credentials: Credentials, installation_ids: list[str]) -> list[Finding]:
    findings: list[Finding] = []
    for installation_id in installation_ids:
        try:
            await credentials.token(installation_id)
        except NoCredential as missing:
            findings.append(problem("credentials", str(missing)))
        except CredentialsUnavailable as unavailable:
            findings.append(problem("credentials", str(unavailable)))
    if not installation_ids:
        return [ok("credentials", "not tried, no installation is known yet: `--installation ID` tries one")]
    return findings or [ok("credentials", f"there is a token for {', '.join(installation_ids)}")]


async def _ignores_case(credentials: Credentials, installation_id: str) -> bool:
    other = installation_id.swapcase()
    try:
        return other != installation_id and await credentials.token(other) == await credentials.token(installation_id)
    except (NoCredential, CredentialsUnavailable):
        return False


def _other_case(installation_id: str) -> Finding:
    return warning(
        "credentials",
        f"DISPATCHER_CREDENTIALS_QUERY finds the token of {installation_id} for {installation_id.swapcase()} too, because its comparison"
        " ignores case: an installation could get another's token. Compare bytes: on MySQL and MariaDB"
        " `WHERE id = :installation_id AND BINARY id = :installation_id`, elsewhere with a case-sensitive collation",
    )
