"""Whether tokens can be had where the settings say."""

import sqlalchemy as sa

from dispatcher.credentials.bearer_token import CredentialsUnavailable, NoCredential
from dispatcher.credentials.sources import Credentials, open_credentials
from dispatcher.database.transactions import Database
from dispatcher.inspection.checks.finding import Finding, ok, problem, warning
from dispatcher.outbox.tables import installation
from dispatcher.settings.settings import Settings, SettingsError
from dispatcher.transport import Network, open_transport

TRIED = 5
"""So many of the known installations are tried."""


async def check_credentials(
    settings: Settings, database: Database, network: Network, installation_id: str | None, *, usable: bool
) -> list[Finding]:
    """Asks for the token of this installation, else of those known that have work. `usable`: whether the database is."""
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
        found = await _try(credentials, tried)
        if settings.credentials_query is not None and tried and await _ignores_case(credentials, tried[0]):
            found.append(_other_case(tried[0]))
        return found
    finally:
        await credentials.aclose()
        await transport.aclose()


def _known(database: Database) -> list[str]:
    with_work_first = installation.c.due_at.is_(None), installation.c.due_at
    with database.read() as connection:
        rows = connection.execute(sa.select(installation.c.installation_id).order_by(*with_work_first).limit(TRIED))
        return list(rows.scalars())


async def _try(credentials: Credentials, installation_ids: list[str]) -> list[Finding]:
    found: list[Finding] = []
    for installation_id in installation_ids:
        try:
            await credentials.token(installation_id)
        except NoCredential as none:
            found.append(problem("credentials", str(none)))
        except CredentialsUnavailable as unavailable:
            found.append(problem("credentials", str(unavailable)))
    if not installation_ids:
        return [ok("credentials", "not tried, no installation is known yet: `--installation ID` tries one")]
    return found or [ok("credentials", f"there is a token for {', '.join(installation_ids)}")]


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
        " ignores case: an installation could be lent another's token. Compare bytes: on MySQL and MariaDB"
        " `WHERE id = :installation_id AND BINARY id = :installation_id`, elsewhere a collation that knows case",
    )
