"""The checks of `dispatcher check`, on every database."""

import re
import time
import zlib
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
import trustme
from pydantic import SecretStr
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from dispatcher.database import migration
from dispatcher.database.errors import is_unreachable
from dispatcher.database.transactions import Database, open_database
from dispatcher.inspection.checks import Finding, Level, examine
from dispatcher.inspection.checks.attempts import check_attempts
from dispatcher.inspection.checks.database import (
    check_clock,
    check_isolation,
    check_tables,
    check_tls,
    check_wakeup,
    check_writes,
)
from dispatcher.inspection.checks.privileges import check_privileges
from dispatcher.outbox.tables import attempt, installation
from dispatcher.settings.settings import Settings, Wakeup
from tests.contract.databases import on_mysql, on_postgresql, on_sqlite

Role = tuple[Engine, Database]

pytestmark = pytest.mark.varies


def limited_user(database: Database) -> str:
    """Returns a user name for this database alone: the databases of a server share its users, and other tests may use the others."""
    return f"dispatcher_limited_{zlib.crc32(str(database.engine.url.database).encode()):08x}"


def levels(findings: Iterator[Finding]) -> dict[str, Level]:
    return {one.check: one.level for one in findings}


def message(findings: Iterator[Finding]) -> str:
    (one,) = findings
    return one.what


def test_a_healthy_database_gives_no_problem(database: Database) -> None:
    settings = Settings(
        database_url=SecretStr(database.engine.url.render_as_string(hide_password=False)),
        database_schema=database.schema,
        vercel_token=SecretStr("t0ken"),
        vercel_base_url="http://127.0.0.1:1",
        allow_insecure_base_url=True,
    )
    findings = levels(examine(settings))
    assert findings.pop("base_url") is Level.PROBLEM
    passed = ["database", "isolation", "clock", "privileges", "schema", "credentials", "authorities", "proxy"]
    assert findings == dict.fromkeys(passed, Level.OK)


UNVERIFIED = [
    "postgres://app@db.example/app",
    "postgres://app@db.example/app?sslmode=require",
    "postgres://app@/app?host=127.0.0.1&host=db.example",
    "mysql://app@db.example/app",
    "postgres://app@192.0.2.1/app",
    "mysql://app@[2001:db8::1]/app",
]
VERIFIED_OR_LOCAL = [
    "postgres://app@db.example/app?sslmode=verify-full&sslrootcert=system",
    "postgres://app@db.example/app?sslmode=verify-ca",
    "postgres://app@db.example/app?sslrootcert=system",
    "mysql://app@db.example/app?ssl_ca=ca.pem",
    "mysql://app@db.example/app?ssl_check_hostname=true",
    "mysql://app@db.example/app?unix_socket=/run/mysqld.sock",
    "postgres://app@localhost/app",
    "postgres://app@127.0.0.1/app",
    "postgres://app@[::1]/app",
    "postgres:///app",
    "postgres://app@/app?host=/run/postgresql",
    "mysql://app@localhost/app",
    "mysql:///app",
    "sqlite:///x.db",
]


@pytest.mark.parametrize("url", UNVERIFIED)
def test_a_remote_database_that_is_not_verified_gives_a_warning(url: str) -> None:
    (one,) = tls_findings(url)
    assert one.level is Level.WARNING
    assert ("sslmode=verify-full" if url.startswith("postgres") else "ssl-mode=VERIFY_IDENTITY") in one.what


@pytest.mark.parametrize("url", VERIFIED_OR_LOCAL)
def test_a_database_that_is_verified_or_on_this_machine_gives_none(url: str) -> None:
    assert tls_findings(url) == []


def tls_findings(url: str) -> list[Finding]:
    """Returns the findings of the TLS check, which opens no connection."""
    database = open_database(url)
    findings = list(check_tls(database))
    database.close()
    return findings


@pytest.mark.gate  # needs a server that speaks TLS over TCP
@pytest.mark.parametrize("server", ["postgresql", "mysql"], indirect=True)
def test_a_server_without_a_certificate_of_the_named_authority_gets_no_password(
    database: Database, tmp_path: Path
) -> None:
    trustme.CA().cert_pem.write_to_path(tmp_path / "ca.pem")
    ca = str(tmp_path / "ca.pem")
    tls = {"postgresql": {"sslmode": "verify-full", "sslrootcert": ca}, "mysql": {"ssl_ca": ca}}[database.dialect.name]
    url = database.engine.url.update_query_dict(tls).render_as_string(hide_password=False)
    refusing = open_database(url, database.schema)
    with pytest.raises(DBAPIError) as refused:
        refusing.now()
    refusing.close()
    assert is_unreachable(refused.value)
    assert re.search("ssl|certificate", str(refused.value), re.IGNORECASE)


def test_missing_tables_are_reported_with_the_remedy(bare_database: Database) -> None:
    assert message(check_privileges(bare_database)) == "not tried: the tables are not there"
    assert "run `dispatcher migrate`" in message(check_tables(bare_database))


def test_a_dropped_column_is_named(database: Database) -> None:
    table = f"{database.schema}.vercel_attempt" if database.schema else "vercel_attempt"
    with database.engine.begin() as connection:
        connection.exec_driver_sql(f"ALTER TABLE {table} DROP COLUMN vercel_id")
    assert "vercel_attempt.vercel_id" in message(check_tables(database))


@pytest.mark.parametrize(("hours", "expected"), [(0, "agree"), (-2, "2h ahead of"), (2, "2h behind")])
def test_clocks_that_differ_are_reported(
    database: Database, monkeypatch: pytest.MonkeyPatch, hours: int, expected: str
) -> None:
    real = time.time
    monkeypatch.setattr("dispatcher.inspection.system.time.time", lambda: round(real() / 60) * 60 + hours * 3_600.0)
    monkeypatch.setattr(
        "dispatcher.inspection.checks.database.format_duration", lambda seconds: f"{round(seconds / 3_600)}h"
    )
    assert expected in message(check_clock(database, tolerance=61.0))


@pytest.fixture
def limited(database: Database) -> Iterator[Role]:
    """The owner's engine, and the database as opened by a user without privileges."""
    name = limited_user(database)
    user = {"postgresql": name, "mysql": f"'{name}'@'%%'"}[database.dialect.name]
    create = {"postgresql": f"CREATE ROLE {user} LOGIN", "mysql": f"CREATE USER {user}"}[database.dialect.name]
    drop = {"postgresql": f"DROP OWNED BY {user}; DROP ROLE {user}", "mysql": f"DROP USER {user}"}
    owner = database.engine.execution_options(isolation_level="AUTOCOMMIT")
    with owner.connect() as connection:
        if database.dialect.name == "mysql":
            connection.exec_driver_sql(f"DROP USER IF EXISTS {user}")
            connection.exec_driver_sql(create)
            connection.exec_driver_sql(f"GRANT CREATE TEMPORARY TABLES ON {database.engine.url.database}.* TO {user}")
        else:
            exists = "SELECT 1 FROM pg_roles WHERE rolname = "
            if connection.exec_driver_sql(f"{exists}'{user}'").first():
                connection.exec_driver_sql(drop["postgresql"])
            connection.exec_driver_sql(create)
    url = database.engine.url.set(username=name).render_as_string(hide_password=False)
    opened = open_database(url, database.schema)
    yield owner, opened
    opened.close()
    with owner.connect() as connection:
        for statement in drop[database.dialect.name].split("; "):
            connection.exec_driver_sql(statement)


@pytest.mark.parametrize(
    "server", ["postgresql", "mysql", pytest.param("postgresql-schema", marks=pytest.mark.variant)], indirect=True
)
def test_the_missing_grants_are_named_and_are_enough(limited: Role) -> None:
    owner, database = limited
    for _ in range(3):  # on PostgreSQL, those of the schema come first
        findings = list(check_privileges(database))
        if findings[0].level is Level.OK:
            break
        assert all(one.level is not Level.OK for one in findings)
        with owner.connect() as connection:
            for one in findings:
                connection.exec_driver_sql(one.what.partition(": ")[2].replace("%", "%%"))
    assert "may do" in message(check_privileges(database))


@pytest.mark.parametrize("server", ["postgresql", "mysql"], indirect=True)
def test_a_single_missing_privilege_is_the_only_one_named(limited: Role) -> None:
    owner, database = limited
    with owner.connect() as connection:
        for one in list(check_privileges(database)):
            connection.exec_driver_sql(one.what.partition(": ")[2].replace("%", "%%"))
        revoke = delete_grant(database).replace("GRANT", "REVOKE").replace(" TO ", " FROM ")
        connection.exec_driver_sql(revoke.replace("%", "%%"))
    assert message(check_privileges(database)).endswith(delete_grant(database))


def delete_grant(database: Database) -> str:
    """Returns the statement that allows the limited user to delete from the outbox."""
    with database.read() as connection:
        return database.dialect.grant(connection, "vercel_outbox", ["DELETE"], database.schema)


@pytest.mark.parametrize("server", ["postgresql"], indirect=True)
def test_a_user_who_may_not_create_tables_is_warned_before_migrating(limited: Role, database: Database) -> None:
    _, unprivileged = limited
    migration.downgrade(database)
    findings = list(check_tables(unprivileged))
    migration.migrate(database)
    assert "run `dispatcher migrate`" in findings[0].what
    assert f"GRANT USAGE, CREATE ON SCHEMA public TO {limited_user(database)};" in findings[1].what


@on_sqlite
def test_a_file_that_may_not_be_written_is_reported(database: Database) -> None:
    path = database.engine.url.database
    database.engine.dispose()
    readable = open_database(f"sqlite:///file:{path}?mode=ro&uri=true")
    findings = list(check_privileges(readable))
    readable.close()
    assert findings
    assert "writable" in findings[0].what


@on_sqlite
def test_a_journal_that_is_not_wal_is_a_warning(database: Database) -> None:
    other = database.engine.url.database
    assert other is not None
    settings = Settings(
        # A VFS without shared memory, like that of a network share.
        database_url=SecretStr(f"sqlite:///file:{other}.other?vfs=unix-dotfile&uri=true"),
        vercel_token=SecretStr("t0ken"),
        vercel_base_url="http://127.0.0.1:1",
        allow_insecure_base_url=True,
    )
    findings = [one for one in examine(settings) if one.check == "durability"]
    assert [one.level for one in findings] == [Level.WARNING]
    assert "WAL" in findings[0].what


@on_mysql
def test_an_isolation_level_that_is_overridden_is_a_problem(database: Database) -> None:
    wrong = Database(database.engine.execution_options(isolation_level="REPEATABLE READ"), database.dialect)
    (one,) = check_isolation(wrong)
    assert one.level is Level.PROBLEM
    assert "REPEATABLE-READ" in one.what


@on_postgresql
def test_an_isolation_level_that_is_overridden_is_a_problem_on_postgresql_too(database: Database) -> None:
    wrong = Database(database.engine.execution_options(isolation_level="SERIALIZABLE"), database.dialect)
    (one,) = check_isolation(wrong)
    assert one.level is Level.PROBLEM
    assert "serializable" in one.what


@on_postgresql
async def test_an_obstacle_to_notifications_is_a_warning(database: Database, server: str) -> None:
    url = database.engine.url.render_as_string(hide_password=False)
    settings = Settings(database_url=SecretStr(url), wakeup=Wakeup.NOTIFY)
    (one,) = await check_wakeup(settings, database)
    assert one.level is Level.WARNING
    assert ("pgbouncer" if server == "pgbouncer" else "dispatcher schema --dialect postgresql --wakeup") in one.what


@pytest.mark.parametrize(
    "server", ["postgresql"], indirect=True
)  # pgbouncer would keep sessions from before the setting
def test_a_server_that_takes_no_writes_is_a_problem(database: Database, partner: Engine) -> None:
    assert list(check_writes(database)) == []
    name = partner.url.database
    with partner.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        fresh = open_database(database.engine.url.render_as_string(hide_password=False), database.schema)
        try:
            (finding,) = check_writes(fresh)
        finally:
            fresh.close()
            connection.exec_driver_sql("SET default_transaction_read_only = off")
            connection.exec_driver_sql(f"ALTER DATABASE {name} RESET default_transaction_read_only")
    assert finding.level is Level.PROBLEM
    assert "the server takes no writes: default_transaction_read_only is on" in finding.what


@pytest.mark.parametrize("server", ["sqlite", "postgresql", "mysql"], indirect=True)
def test_an_ordinary_server_takes_writes_and_is_no_cluster(database: Database) -> None:
    assert list(check_writes(database)) == []
    assert not database.is_cluster()


# ── what the recorded attempts say


class Past:
    """Writes what a dispatcher leaves behind; times are in minutes from `begin`, by the database's clock."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.begin = database.now().replace(second=0, microsecond=0) - timedelta(hours=1)

    def at(self, minute: int) -> datetime:
        return self.begin + timedelta(minutes=minute)

    def shown(self, minute: int) -> str:
        return f"{self.at(minute):%Y-%m-%d %H:%M} UTC"

    def pause(self, name: str, minute: int, reason: str = "unauthorized", delivered: int | None = None) -> None:
        last = None if delivered is None else self.at(delivered)
        time = self.at(minute)
        pause = {"pause_reason": reason, "paused_since": time, "paused_until": time, "last_delivered_at": last}
        self._add(installation, installation_id=name, due_at=time, **pause)

    def deliver(self, name: str, minute: int | None) -> None:
        last = None if minute is None else self.at(minute)
        self._add(installation, installation_id=name, last_delivered_at=last)

    def log(self, name: str, minute: int, outcome: str, **answer: object) -> None:
        subject = {"subject_key": "k", "installation_id": name, "type": "installation.updated"}
        events = {"attempt": 1, "events": 1, "first_event_id": 1, "last_event_id": 1, "first_created_at": self.at(0)}
        self._add(
            attempt, **subject, **events, at=self.at(minute), outcome=outcome, duration_ms=1, decision="pause", **answer
        )

    def _add(self, table: sa.Table, **row: object) -> None:
        with self.database.engine.begin() as connection:
            connection.execute(sa.insert(table).values(row))


@pytest.fixture
def past(database: Database) -> Past:
    return Past(database)


def test_where_nothing_is_refused_the_attempts_give_no_finding(past: Past) -> None:
    assert list(check_attempts(past.database)) == []
    past.deliver("icfg_1", 5)
    past.pause("icfg_2", 6, reason="operator")
    past.pause("icfg_3", 6, reason="disabled")
    assert list(check_attempts(past.database)) == []


def test_that_all_are_refused_is_a_problem(past: Past) -> None:
    for number in range(20):
        past.pause(f"icfg_{number}", 10 + number, delivered=number % 10)
    past.deliver("icfg_quiet", 3)
    past.log("icfg_19", 29, "unauthorized", status=401, error="the token is not valid", vercel_id="iad1::x")
    (one,) = check_attempts(past.database)
    assert (one.check, one.level) == ("attempts", Level.PROBLEM)
    assert one.what.startswith(
        f"20 of 20 installations that were tried since {past.shown(10)} are refused by Vercel"
        " (401, the token is not valid, x-vercel-id iad1::x): "
    )
    assert one.what.endswith("or by `dispatcher installations resume --reason unauthorized`")


def test_only_those_that_were_refused_after_the_last_delivery_are_counted(past: Past) -> None:
    past.pause("icfg_uninstalled", 1)
    past.deliver("icfg_quiet", 5)
    for number in range(3):
        past.pause(f"icfg_{number}", 10 + number)
    (one,) = check_attempts(past.database)
    assert one.level is Level.PROBLEM
    assert one.what.startswith(f"3 of 3 installations that were tried since {past.shown(10)} are refused by Vercel: ")


def test_the_only_installation_that_is_refused_is_a_problem(past: Past) -> None:
    past.pause("icfg_1", 10, delivered=9)
    (one,) = check_attempts(past.database)
    assert one.level is Level.PROBLEM
    assert one.what.startswith(f"1 of 1 installations that were tried since {past.shown(10)} is refused by Vercel: ")


@pytest.mark.parametrize("others_delivered", [None, 3, 20])
def test_that_few_of_many_are_refused_is_a_warning(past: Past, others_delivered: int | None) -> None:
    past.deliver("icfg_other", others_delivered)
    past.pause("icfg_b", 12)
    past.pause("icfg_a", 11)
    (one,) = check_attempts(past.database)
    assert one.level is Level.WARNING
    assert one.what.startswith(
        "2 installations are refused by Vercel:"
        f" icfg_a since {past.shown(11)}, icfg_b since {past.shown(12)}. Store working tokens"
    )


def test_many_that_are_refused_while_others_work_are_a_warning(past: Past) -> None:
    for number in range(9):
        past.pause(f"icfg_{number}", number)
    past.deliver("icfg_other", 30)
    (one,) = check_attempts(past.database)
    assert one.level is Level.WARNING
    assert one.what.startswith(f"9 installations are refused by Vercel: icfg_0 since {past.shown(0)}, ")
    assert f"icfg_2 since {past.shown(2)}, …. Store" in one.what


def test_a_delivery_in_the_log_counts_too(past: Past) -> None:
    for number in range(3):
        past.pause(f"icfg_{number}", 10)
    past.deliver("icfg_other", None)
    past.log("icfg_other", 20, "delivered", status=201)
    (one,) = check_attempts(past.database)
    assert one.level is Level.WARNING


def test_missing_tokens_are_reported_on_their_own(past: Past) -> None:
    past.pause("icfg_1", 10)
    past.pause("icfg_2", 11, reason="no_credential")
    past.log("icfg_2", 11, "no_credential", error="there is no credentials file /t/icfg_2")
    refused, missing = check_attempts(past.database)
    assert (refused.level, missing.level) == (Level.WARNING, Level.WARNING)
    assert refused.what.startswith("1 installation is refused by Vercel: icfg_1 since")
    assert missing.what.startswith(
        f"1 installation has no token: icfg_2 since {past.shown(11)} (there is no credentials"
    )


def test_what_is_counted_is_bounded(past: Past, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dispatcher.inspection.checks.attempts.MAX_SCANNED_ROWS", 4)
    for number in range(6):
        past.pause(f"icfg_{number}", 10)
    assert message(check_attempts(past.database)).startswith("at least 4 of at least 4 installations")
