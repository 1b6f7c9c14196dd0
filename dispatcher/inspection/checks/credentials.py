"""Checks whether the source of credentials that the settings name provides tokens and, on request, whether Vercel accepts them."""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from dispatcher.credentials.bearer_token import CredentialsUnavailable, NoCredential
from dispatcher.credentials.sources import Credentials, open_credentials
from dispatcher.database.transactions import Database
from dispatcher.inspection.checks.finding import Finding, ok, problem, warning
from dispatcher.inspection.checks.live import check_live
from dispatcher.inspection.checks.look_up import Candidate, LookUp, look_up
from dispatcher.outbox.tables import installation
from dispatcher.settings.settings import Settings, SettingsError
from dispatcher.transport import Network, open_general_transport
from dispatcher.vercel.client import Vercel

MAX_TRIED_INSTALLATIONS = 5
"""At most this many of the known installations are tried."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """Which tokens to try, and how."""

    installation_id: str | None = None
    """None: those of some known installations."""
    live: bool = False
    """Whether Vercel is asked with them."""


async def check_credentials(
    settings: Settings, database: Database, network: Network, tokens: Tokens, *, usable: bool
) -> list[Finding]:
    """Looks up the tokens, of installations with pending work first. `usable`: whether the database is usable."""
    try:
        credentials = open_credentials(settings, network)
    except SettingsError as error:
        return [problem("settings", str(error))]
    try:
        if not usable and settings.credentials_query is not None:
            return [warning("credentials", "not tried: DISPATCHER_CREDENTIALS_QUERY needs the database")]
        candidates = _candidates(database if usable else None, tokens)
        looked_up = await asyncio.gather(*(look_up(credentials, one) for one in candidates))
        findings = await _judge(settings, credentials, looked_up)
        if tokens.live:
            findings += await _ask_vercel(settings, network, looked_up)
        return findings
    finally:
        await credentials.aclose()


async def _ask_vercel(settings: Settings, network: Network, looked_up: Sequence[LookUp]) -> list[Finding]:
    transport = open_general_transport(network)
    try:
        return await check_live(Vercel(settings.vercel_base_url, transport, settings.request_timeout), looked_up)
    finally:
        await transport.aclose()


def _candidates(database: Database | None, tokens: Tokens) -> list[Candidate]:
    if tokens.installation_id is not None:
        return [Candidate(tokens.installation_id)]
    return [] if database is None else _known(database)


def _known(database: Database) -> list[Candidate]:
    known = sa.select(installation.c.installation_id)
    with_work = known.where(installation.c.due_at.is_not(None)).order_by(installation.c.due_at)
    idle = known.where(installation.c.due_at.is_(None)).order_by(installation.c.installation_id)
    with database.read() as connection:
        found = [Candidate(one) for one in connection.execute(with_work.limit(MAX_TRIED_INSTALLATIONS)).scalars()]
        rest = idle.limit(MAX_TRIED_INSTALLATIONS - len(found))
        return [*found, *(Candidate(one, is_idle=True) for one in connection.execute(rest).scalars())]


async def _judge(settings: Settings, credentials: Credentials, looked_up: Sequence[LookUp]) -> list[Finding]:
    if settings.vercel_token is not None:
        return [ok("credentials", "there is one token for all installations")]
    if not looked_up:
        return [ok("credentials", "not tried, no installation is known yet: `--installation ID` tries one")]
    findings = list(dict.fromkeys([*_failures(looked_up), *_missing_of_idle(looked_up)]))
    found = [one.candidate.installation_id for one in looked_up if one.token is not None]
    if found:
        findings.append(ok("credentials", f"there is a token for {', '.join(found)}"))
    if settings.credentials_query is not None and found and await _ignores_case(credentials, found[0]):
        findings.append(_other_case(found[0]))
    return findings


def _failures(looked_up: Sequence[LookUp]) -> Iterator[Finding]:
    for one in looked_up:
        if one.why_not is not None and not _is_missing_of_idle(one):
            yield problem("credentials", str(one.why_not))


def _missing_of_idle(looked_up: Sequence[LookUp]) -> Iterator[Finding]:
    """An installation without events may have been uninstalled. If none of those tried has a token, the source may be wrong."""
    missing = [one.candidate.installation_id for one in looked_up if _is_missing_of_idle(one)]
    if not missing:
        return
    names = ", ".join(missing)
    if len(missing) < len(looked_up):
        yield ok("credentials", f"there is no token for {names}, but no event is waiting there")
    else:
        yield warning(
            "credentials",
            f"none of the installations that were tried has a token ({looked_up[0].why_not}). No event is waiting for {names}:"
            " `--installation ID` tries another",
        )


def _is_missing_of_idle(one: LookUp) -> bool:
    return one.candidate.is_idle and isinstance(one.why_not, NoCredential)


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
