"""The database itself: isolation, durability, clock, tables, and the bell of WAKEUP=notify."""

import time
from collections.abc import Iterator

from dispatcher.database import schema
from dispatcher.database.notifier import Notifier, NotifierUnavailable
from dispatcher.database.schema import UnusableSchema
from dispatcher.database.transactions import Database
from dispatcher.inspection.checks.finding import Finding, ok, problem, warning
from dispatcher.outbox.tables import metadata
from dispatcher.settings.durations import format_duration
from dispatcher.settings.settings import Settings, Wakeup

CLOCKS_APART = 5.0
"""Seconds of difference between two clocks that are worth a word."""


def check_tls(database: Database) -> Iterator[Finding]:
    """Whether somebody between could read, or take the place of, a database on another machine."""
    host = database.dialect.unverified_host(database.engine.url)
    if host is not None:
        yield warning(
            "tls",
            f"the connection to {host} does not verify the server's certificate: somebody in between could read the database's"
            f" password and the tokens. Add {database.dialect.how_to_verify} to DISPATCHER_DATABASE_URL",
        )


def check_isolation(database: Database) -> Iterator[Finding]:
    """Whether the database does as each connection asks."""
    with database.read() as connection:
        wrong = database.dialect.check_isolation(connection)
    yield problem("isolation", wrong) if wrong else ok("isolation", "transactions run as the dispatcher needs them")


def check_writes(database: Database) -> Iterator[Finding]:
    """Whether this server takes writes at all: a standby answers everything else well."""
    with database.read() as connection:
        why_not = database.dialect.check_writes(connection)
    if why_not is not None:
        yield problem(
            "writes", f"the server takes no writes: {why_not}. DISPATCHER_DATABASE_URL must lead to the primary"
        )


def check_durability(database: Database) -> Iterator[Finding]:
    """Whether commits are kept as they should be."""
    with database.read() as connection:
        wrong = database.dialect.check_durability(connection)
    if wrong is not None:
        yield warning("durability", wrong)


def check_encoding(database: Database) -> Iterator[Finding]:
    """Whether every text can be kept."""
    with database.read() as connection:
        wrong = database.dialect.check_encoding(connection, metadata.tables)
    if wrong is not None:
        what, cure = wrong
        yield warning(
            "encoding",
            f"{what}: an event whose ids hold another character is refused, or written with changed ids, and of an answer of Vercel's"
            f" the text that holds one is left out. To mend it, {cure}",
        )


def check_clock(database: Database) -> Iterator[Finding]:
    """Compares the database's clock with this machine's."""
    before = time.time()
    theirs = database.now().timestamp()
    apart = theirs - (before + time.time()) / 2
    if abs(apart) < CLOCKS_APART:
        yield ok("clock", "the database and this machine agree")
        return
    ahead = "ahead of" if apart > 0 else "behind"
    yield warning(
        "clock",
        f"the database's clock is {format_duration(round(abs(apart), 1))} {ahead} this machine's: deliveries go by the"
        " database's, the log by this machine's, so their times do not match. Synchronize both (NTP)",
    )


def check_tables(database: Database) -> Iterator[Finding]:
    """Whether the tables are those that this program was written for."""
    try:
        schema.check(database)
    except UnusableSchema as unusable:
        yield problem("schema", str(unusable))
        with database.read() as connection:
            if (grant := database.dialect.grant_to_create(connection, database.schema)) is not None:
                yield problem("privileges", f"`dispatcher migrate` will not be allowed to create tables: {grant}")
        return
    if missing := schema.missing_columns(database):
        yield problem(
            "schema",
            f"the tables lack {', '.join(missing)}: something else has changed them; `dispatcher schema --dialect"
            f" {database.dialect.name}` prints them as they should be",
        )
        return
    yield ok("schema", f"the tables are there, at revision {schema.newest()}")


async def check_wakeup(settings: Settings, database: Database) -> list[Finding]:
    """With WAKEUP=notify: whether a partner's commit can reach us."""
    if settings.wakeup is not Wakeup.NOTIFY:
        return []
    try:
        bell = await Notifier.connect(database)
    except NotifierUnavailable as none:
        return [warning("wakeup", f"DISPATCHER_WAKEUP=notify has no effect, the dispatcher polls: {none}")]
    await bell.close()
    return [ok("wakeup", "commits can wake the dispatcher")]
