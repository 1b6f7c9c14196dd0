"""Checks the database itself: TLS, isolation, writes, durability, encoding, clock, tables, and the notifier of WAKEUP=notify."""

from collections.abc import Iterator

from sqlalchemy.exc import DBAPIError

from dispatcher.database import revisions, schema
from dispatcher.database.notifier import Notifier, NotifierUnavailable
from dispatcher.database.schema import UnusableSchema
from dispatcher.database.transactions import Database
from dispatcher.database_url.postgresql import SCHEMA_PARAMETERS
from dispatcher.inspection.checks.finding import Finding, ok, problem, warning
from dispatcher.inspection.system import clock_ahead
from dispatcher.outbox.tables import metadata
from dispatcher.settings.durations import format_duration
from dispatcher.settings.settings import Settings, Wakeup

CLOCK_TOLERANCE_SECONDS = 5.0


def check_url(settings: Settings) -> Iterator[Finding]:
    """Names the parameters of the URL that have no effect here."""
    if not (ignored := settings.database.ignored):
        return
    what = f"parameters of DISPATCHER_DATABASE_URL that are for other clients are ignored: {', '.join(ignored)}"
    names_schema = any(name in SCHEMA_PARAMETERS and value != "public" for name, value in ignored.items())
    if names_schema and settings.database_schema is None:
        advice = "for the dispatcher's tables, DISPATCHER_SCHEMA names the schema; in DISPATCHER_CREDENTIALS_QUERY, write it out"
        yield warning("url", f"{what}; {advice}")
    else:
        yield ok("url", what)


def check_tls(database: Database) -> Iterator[Finding]:
    """Warns if an attacker on the network could read the traffic of a database on another machine, or impersonate it."""
    host = database.dialect.unverified_host(database.engine.url)
    if host is not None:
        yield warning(
            "tls",
            f"the connection to {host} does not verify the server's certificate: an attacker on the network could read the"
            f" database's password and the tokens. Add {database.dialect.how_to_verify} to DISPATCHER_DATABASE_URL",
        )


def check_isolation(database: Database) -> Iterator[Finding]:
    """Whether transactions get the isolation level that the dispatcher requests."""
    with database.read() as connection:
        wrong = database.dialect.check_isolation(connection)
    yield problem("isolation", wrong) if wrong else ok("isolation", "transactions run as the dispatcher needs them")


def check_writes(database: Database) -> Iterator[Finding]:
    """Reports a server that accepts no writes. A standby passes all the other checks."""
    with database.read() as connection:
        why_not = database.dialect.check_writes(connection)
    if why_not is not None:
        yield problem("writes", f"the server takes no writes: {why_not}. DISPATCHER_DATABASE_URL must name the primary")


def check_durability(database: Database) -> Iterator[Finding]:
    """Warns if commits are less durable than they should be."""
    with database.read() as connection:
        wrong = database.dialect.check_durability(connection)
    if wrong is not None:
        yield warning("durability", wrong)


def check_encoding(database: Database) -> Iterator[Finding]:
    """Warns if the database cannot store every text."""
    with database.read() as connection:
        wrong = database.dialect.check_encoding(connection, metadata.tables)
    if wrong is not None:
        what, cure = wrong
        yield warning(
            "encoding",
            f"{what}: an event whose ids contain any other character is refused, or written with changed ids, and such text in an"
            f" answer from Vercel is left out. To fix it, {cure}",
        )


def check_clock(database: Database, tolerance: float = CLOCK_TOLERANCE_SECONDS) -> Iterator[Finding]:
    """Compares the database's clock with this machine's. A difference of `tolerance` seconds or more is reported."""
    apart = clock_ahead(database)
    if abs(apart) < tolerance:
        yield ok("clock", "the database and this machine agree")
        return
    ahead = "ahead of" if apart > 0 else "behind"
    yield warning(
        "clock",
        f"the database's clock is {format_duration(round(abs(apart), 1))} {ahead} this machine's: deliveries use the"
        " database's, the log uses this machine's, so their times do not match. Synchronize both (NTP)",
    )


def check_tables(database: Database) -> Iterator[Finding]:
    """Whether the tables are those that this version expects. Those that this user may not read are left to `check_privileges`."""
    try:
        yield from _compare_tables(database)
    except DBAPIError as error:
        if not database.dialect.is_denied(error):
            raise


def _compare_tables(database: Database) -> Iterator[Finding]:
    try:
        found = schema.check(database)
    except UnusableSchema as unusable:
        yield problem("schema", str(unusable))
        with database.read() as connection:
            if (grant := database.dialect.grant_to_create(connection, database.schema)) is not None:
                yield problem("privileges", f"`dispatcher migrate` will not be allowed to create tables: {grant}")
        return
    if missing := [column for column in schema.missing_columns(database) if database.has(column)]:
        yield problem("schema", schema.describe_changed_tables(database, missing))
    elif found.warning is not None:
        yield warning("schema", found.warning)
    elif found.is_newer:
        yield ok(
            "schema",
            f"the tables are at revision {found.revision}, newer than this program ({revisions.newest()}): that is fine",
        )
    else:
        yield ok("schema", f"the tables are there, at revision {revisions.newest()}")


async def check_wakeup(settings: Settings, database: Database) -> list[Finding]:
    """With WAKEUP=notify: whether a partner's commit can wake the dispatcher."""
    if settings.wakeup is not Wakeup.NOTIFY:
        return []
    try:
        notifier = await Notifier.connect(database)
    except NotifierUnavailable as unavailable:
        return [warning("wakeup", f"DISPATCHER_WAKEUP=notify has no effect, the dispatcher polls: {unavailable}")]
    await notifier.close()
    return [ok("wakeup", "commits can wake the dispatcher")]
