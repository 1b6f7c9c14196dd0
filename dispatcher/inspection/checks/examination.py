"""Runs every check, each after those that it depends on."""

import asyncio
from collections.abc import Iterator

from sqlalchemy.exc import DBAPIError

from dispatcher.database.engine import UnusableDatabaseUrl
from dispatcher.database.errors import first_line, is_unreachable
from dispatcher.database.transactions import Database, open_database
from dispatcher.inspection.checks.attempts import check_attempts
from dispatcher.inspection.checks.credentials import Tokens, check_credentials
from dispatcher.inspection.checks.database import (
    check_clock,
    check_durability,
    check_encoding,
    check_isolation,
    check_tables,
    check_tls,
    check_url,
    check_wakeup,
    check_writes,
)
from dispatcher.inspection.checks.endpoint import check_base_url
from dispatcher.inspection.checks.finding import Finding, Level, ok, problem
from dispatcher.inspection.checks.network import check_network
from dispatcher.inspection.checks.privileges import check_privileges
from dispatcher.inspection.checks.triggers import check_triggers
from dispatcher.settings.settings import Settings
from dispatcher.transport import Network, UnusableNetwork


def examine(settings: Settings, installation_id: str | None = None, *, live: bool = False) -> Iterator[Finding]:
    """Checks the database, the recorded attempts, the credentials (of this installation or of some known ones) and Vercel's address.

    Requests real tokens from the source of credentials. To Vercel it opens a connection and sends nothing, unless `live`: then it reads
    the installations' accounts with these tokens. The checks `settings` and `database` report only problems that the settings or an
    unreachable database cause.
    """
    try:
        network = Network(settings.ca_file, trust_env_proxy=settings.trust_env_proxy)
        network.tls_context()
    except UnusableNetwork as error:
        yield problem("settings", str(error))
        return
    yield from _examine_sources(settings, network, Tokens(installation_id, live))
    yield from check_network(settings, network)
    yield from check_base_url(settings, network)


def _examine_sources(settings: Settings, network: Network, tokens: Tokens) -> Iterator[Finding]:
    try:
        database = open_database(settings.database_url.get_secret_value(), settings.database_schema)
    except UnusableDatabaseUrl as unusable:
        yield problem("settings", str(unusable))
        return
    try:
        findings = list(_examine_database(database, settings))
        yield from findings
        usable = all(one.level is not Level.PROBLEM or one.check == "triggers" for one in findings)
        if usable:
            yield from check_attempts(database)
        yield from asyncio.run(check_credentials(settings, database, network, tokens, usable=usable))
    finally:
        database.close()


def _examine_database(database: Database, settings: Settings) -> Iterator[Finding]:
    place = settings.database.place
    if (path := database.dialect.missing_file(database.engine.url)) is not None:
        yield problem(
            "schema", f"there is no database file {path}: run `dispatcher migrate`, or correct DISPATCHER_DATABASE_URL"
        )
        return
    yield from check_url(settings)
    yield from check_tls(database)
    try:
        with database.read():
            yield ok("database", f"{place} answers")
        yield from check_isolation(database)
        yield from check_writes(database)
        yield from check_durability(database)
        yield from check_encoding(database)
        yield from check_clock(database)
        yield from check_privileges(database)
        yield from check_tables(database)
        yield from check_triggers(database)
        yield from asyncio.run(check_wakeup(settings, database))
    except UnusableDatabaseUrl as unusable:
        yield problem("settings", str(unusable))
    except DBAPIError as error:
        if is_unreachable(error):
            yield problem(
                "database",
                f"{place} cannot be reached ({first_line(error)}): is it running, and does DISPATCHER_DATABASE_URL"
                " name it, its user and its password?",
            )
        else:
            yield problem("schema", f"the database reported an error ({first_line(error)})")
