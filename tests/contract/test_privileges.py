"""What `dispatcher grants` prints: each user can do its work with just these privileges, and nothing else."""

import asyncio
import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
import sqlalchemy as sa
from pydantic import SecretStr
from sqlalchemy import Engine
from structlog.testing import capture_logs

from dispatcher import InstallationRemoved, InstallationUpdated, ResourceUpdated, publish, store
from dispatcher.credentials.sources import StaticCredentials
from dispatcher.database import migration, schema
from dispatcher.database.notifier import Notifier, trigger_sql
from dispatcher.database.transactions import Database
from dispatcher.database.triggers import create
from dispatcher.inspection.aftermath import Replays, aftermath
from dispatcher.inspection.backlog import measure
from dispatcher.inspection.causes import causes
from dispatcher.inspection.checks import Level, examine
from dispatcher.inspection.checks.database import check_tables
from dispatcher.inspection.checks.privileges import check_privileges, needed
from dispatcher.inspection.checks.triggers import check_triggers
from dispatcher.inspection.dead_letters import find_dead_letter, list_dead_letters, plan
from dispatcher.inspection.explanation import explain
from dispatcher.inspection.installation_list import count_views, list_installations
from dispatcher.inspection.installations import count_waiting
from dispatcher.inspection.status import read_status
from dispatcher.outbox.tables import VERSION_TABLE, metadata, outbox
from dispatcher.outbox.tables import dispatcher as dispatchers
from dispatcher.outbox.trigger import Column, Watched
from dispatcher.policy.decision import Action, Decision
from dispatcher.service.drain import drain
from dispatcher.service.housekeeping import Housekeeping
from dispatcher.settings.settings import Settings
from dispatcher.store import dead_letters, installations
from dispatcher.telemetry import Report, WritesAccepted
from dispatcher.transport.portable import HttpxTransport
from dispatcher.vercel.client import Vercel
from dispatcher.worker.worker import Worker
from tests.contract.privileges import Users, assert_refused, user_of, users_of
from tests.contract.steps import DELIVERED, GRACES, REJECTED, claim, count, expire_leases, pull_suspects, settle, write
from tests.migration.revisions import FIRST

GUIDE = Path(__file__).parents[2] / "deploy" / "README.md"
RETRY = Decision(Action.RETRY, delay=0)
SIGNATURE = dead_letters.Signature("test")
TABLES = [*metadata.tables, VERSION_TABLE]
PAYLOAD = "installation_id, type, resource_id"

pytestmark = pytest.mark.varies


@pytest.fixture(
    params=[
        "postgresql",
        "mysql",
        pytest.param("postgresql-18", marks=pytest.mark.variant),
        pytest.param("postgresql-schema", marks=pytest.mark.variant),
    ]
)
def server(request: pytest.FixtureRequest) -> str:
    """The name of the database that the test runs on, one that distinguishes users."""
    return str(request.param)


@pytest.fixture
def users(bare_database: Database) -> Iterator[Users]:
    with users_of(bare_database) as made:
        yield made


@pytest.fixture
def application(users: Users) -> Iterator[Engine]:
    """The application's own engine, as its user."""
    options = {"options": f"-c search_path={users.application.schema}"} if users.application.schema else {}
    engine = sa.create_engine(users.application.engine.url, connect_args=options)
    yield engine
    engine.dispose()


def ignore_progress(_: int) -> None:
    pass


def commit(application: Engine, *resources: str, installation_id: str = "icfg_1") -> None:
    with application.begin() as connection:
        write(connection, *resources, installation_id=installation_id)


def test_the_application_publishes_by_a_plain_insert_and_with_our_library(users: Users, application: Engine) -> None:
    commit(application, "db_1")
    with application.begin() as connection:
        publish(connection, ResourceUpdated(installation_id="icfg_1", resource_id="db_2", product_id="pg"))
        publish(connection, InstallationUpdated(installation_id="icfg_1", billing_plan_id="pro", traceparent=None))
    driver = application.raw_connection()
    publish(driver, ResourceUpdated(installation_id="icfg_1", resource_id="db_3"))
    driver.commit()
    driver.close()
    assert count(users.dispatcher, outbox) == 4


def test_the_application_can_do_nothing_else(users: Users) -> None:
    values = "'icfg_1', 'resource.updated', 'db_1'"
    anyway = "OVERRIDING SYSTEM VALUE " if users.application.dialect.name == "postgresql" else ""
    assert_refused(
        users.application,
        f"INSERT INTO vercel_outbox (created_at, {PAYLOAD}) VALUES ('2026-01-01', {values})",
        f"INSERT INTO vercel_outbox (id, {PAYLOAD}) {anyway}VALUES (1, {values})",
        "UPDATE vercel_outbox SET resource_id = 'db_2'",
        "DELETE FROM vercel_outbox",
        "CREATE TABLE vercel_mine (id int)",
        *(f"SELECT 1 FROM {table}" for table in TABLES),
        *(f"DROP TABLE {table}" for table in TABLES),
    )


async def test_without_the_privilege_for_heartbeats_the_rest_works(users: Users) -> None:
    """A release before 0002 needed none."""
    users.execute("REVOKE ALL ON vercel_dispatcher FROM dispatcher")
    reports: list[Report] = []
    transport = HttpxTransport(httpx.MockTransport(lambda _: httpx.Response(201)))
    vercel, token = Vercel("https://vercel.test", transport, 10.0), StaticCredentials(SecretStr("t0ken"))
    worker = Worker(users.dispatcher, vercel, token, Settings(), reports.append, name="one")
    housekeeping = Housekeeping(users.dispatcher, worker, Settings(), reports.append)
    with capture_logs() as lines:
        await housekeeping.beat()
        await housekeeping.beat()
    assert reports == [WritesAccepted()] * 2
    assert [line["event"] for line in lines] == ["no heartbeat"]
    assert count(users.administrator, dispatchers) == 0
    users.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON vercel_dispatcher TO dispatcher")
    await housekeeping.beat()
    assert count(users.administrator, dispatchers) == 1
    await housekeeping.leave()
    assert count(users.administrator, dispatchers) == 0
    housekeeping.close()
    worker.close()


def test_a_program_works_before_its_migration_with_the_privileges_of_the_release_before(users: Users) -> None:
    """MySQL and MariaDB also deny the question whether a table exists."""
    users.execute("REVOKE ALL ON vercel_dispatcher FROM dispatcher")
    migration.downgrade(users.migrator, FIRST)
    try:
        warning = schema.check(users.dispatcher).warning
        assert warning
        assert "vercel_dispatcher" in warning
        assert [(one.level, one.what) for one in check_tables(users.dispatcher)] == [(Level.WARNING, warning)]
        assert [one.level for one in check_privileges(users.dispatcher)] == [Level.OK]
    finally:
        migration.migrate(users.migrator)


def test_check_names_the_revision_also_if_privileges_are_missing(users: Users) -> None:
    users.execute("REVOKE DELETE ON vercel_installation FROM dispatcher")
    settings = Settings(
        database_url=SecretStr(users.dispatcher.engine.url.render_as_string(hide_password=False)),
        database_schema=users.dispatcher.schema,
        vercel_token=SecretStr("t"),
    )
    found = {one.check: one.level for one in examine(settings)}
    assert (found["privileges"], found["schema"]) == (Level.PROBLEM, Level.OK)


def test_check_names_only_the_privilege_if_it_may_not_read_the_revision(users: Users) -> None:
    users.execute(f"REVOKE SELECT ON {VERSION_TABLE} FROM dispatcher")
    assert list(check_tables(users.dispatcher)) == []


def test_the_dispatcher_can_do_all_its_work(users: Users, application: Engine) -> None:
    dispatcher = users.dispatcher
    schema.check(dispatcher)
    commit(application, "db_1", "db_2", "db_3")
    commit(application, "db_4", installation_id="icfg_2")
    assert store.look(dispatcher, store.LOWEST_ID, store.LONG_AGO).to_collect
    assert store.collect(dispatcher, 500).events == 4
    claim(dispatcher)
    expire_leases(dispatcher)
    assert len(pull_suspects(dispatcher, *claim(dispatcher, suspects=1)).deliveries) == 2
    expire_leases(dispatcher)
    leased = claim(dispatcher)
    store.pull(dispatcher, {one.installation_id: one.token for one in leased}, 9, timedelta(seconds=9))
    assert settle(dispatcher, *leased, decision=RETRY).lost == frozenset()
    assert settle(dispatcher, *claim(dispatcher), decision=REJECTED).buried == 4
    commit(application, "db_1")
    store.collect(dispatcher, 500)
    assert settle(dispatcher, *claim(dispatcher), decision=DELIVERED).superseded == 1
    store.repair(dispatcher)
    assert store.prune(dispatcher, timedelta(days=-1), timedelta(days=-1)) == 10
    assert measure(dispatcher).dead_letters == {"rejected": 3}


def test_the_dispatcher_can_also_bury_suspects_and_sweep(users: Users, application: Engine) -> None:
    dispatcher = users.dispatcher
    users.execute("DELETE FROM vercel_collector")  # as the partner's own migrations leave it
    commit(application, "db_1")
    assert store.collect(dispatcher, 500).events == 1
    claim(dispatcher)
    expire_leases(dispatcher)
    assert pull_suspects(dispatcher, *claim(dispatcher, suspects=1), max_attempts=0).buried == 1
    users.execute("DELETE FROM vercel_installation")
    commit(application, "db_2")
    store.collect(dispatcher, 500)
    users.execute("DELETE FROM vercel_installation")
    assert store.repair(dispatcher) == 1


def test_the_dispatcher_can_forget_an_installation(users: Users, application: Engine) -> None:
    dispatcher = users.dispatcher
    for installation_id in ("icfg_1", "icfg_2"):
        commit(application, "db_1", installation_id=installation_id)
    store.collect(dispatcher, 500)
    settle(dispatcher, *claim(dispatcher), decision=REJECTED)
    with application.begin() as connection:
        publish(connection, InstallationRemoved(installation_id="icfg_1"))
    (removal,) = store.collect(dispatcher, 500).removals
    assert store.remove(dispatcher, removal).forgotten
    assert store.forget_idle(dispatcher, timedelta(0)) == "icfg_2"
    assert list_installations(dispatcher, GRACES, 9) == []


def test_operators_do_their_work_as_the_dispatchers_user(users: Users, application: Engine) -> None:
    dispatcher = users.dispatcher
    commit(application, "db_1", "db_2")
    assert installations.pause(dispatcher, "icfg_1")
    assert installations.resume(dispatcher, "icfg_1")
    store.collect(dispatcher, 500)
    settle(dispatcher, *claim(dispatcher), decision=REJECTED)
    everything = dead_letters.Filter()
    found = list_dead_letters(dispatcher, everything, 9)
    assert find_dead_letter(dispatcher, found[0].id) is not None
    assert causes(dispatcher, everything).dead_letters == 2
    planned = plan(dispatcher, everything)
    one = dead_letters.Filter(ids=[planned.last_id])
    assert dead_letters.replay(dispatcher, one, planned.last_id, SIGNATURE, ignore_progress) == 1
    assert aftermath(dispatcher, Replays()).waiting == 1
    assert dead_letters.discard(dispatcher, everything, planned.last_id, SIGNATURE, ignore_progress) == 1
    assert list_installations(dispatcher, GRACES, 9)[0].state == "idle"
    assert set(count_views(dispatcher).values()) == {0}
    assert count_waiting(dispatcher, "icfg_1") is not None
    assert installations.purge(dispatcher, "icfg_1", ignore_progress) == 1
    assert explain(dispatcher, "icfg_1", GRACES, 9) is not None
    assert read_status(dispatcher).backlog.dead_letters == {}
    with dispatcher.engine.begin() as connection:
        publish(connection, ResourceUpdated(installation_id="icfg_1", resource_id="db_1"))


def test_check_and_drain_run_as_the_dispatchers_user(users: Users, application: Engine) -> None:
    (grant,) = re.findall(r"`(GRANT SELECT \(.*? TO dispatcher)`", GUIDE.read_text())
    create = "CREATE TABLE installations (id varchar(128) PRIMARY KEY, token varchar(99))"
    users.execute(
        "DROP TABLE IF EXISTS installations", create, "INSERT INTO installations VALUES ('icfg_1', 't')", grant
    )
    commit(application, "db_1")
    place = f"{users.dispatcher.schema}.installations" if users.dispatcher.schema else "installations"
    exactly = " AND BINARY id = :installation_id" if users.dispatcher.dialect.name == "mysql" else ""
    settings = Settings(
        database_url=SecretStr(users.dispatcher.engine.url.render_as_string(hide_password=False)),
        database_schema=users.dispatcher.schema,
        credentials_query=f"SELECT token FROM {place} WHERE id = :installation_id{exactly}",
        vercel_base_url="http://127.0.0.1:1",  # nothing listens there
        allow_insecure_base_url=True,
    )
    try:
        drained = asyncio.run(drain(settings))
        wrong = [one for one in examine(settings) if one.level is not Level.OK]
    finally:
        users.execute("DROP TABLE installations")
    assert (drained.events, drained.waiting) == (1, 1)
    assert drained.requests  # the first backoff may be over at once
    assert {one.check for one in wrong} == {"base_url"}, wrong


@pytest.mark.parametrize(
    "server", ["postgresql", pytest.param("postgresql-schema", marks=pytest.mark.variant)], indirect=True
)
def test_the_application_changes_a_table_with_a_trigger(users: Users, application: Engine) -> None:
    home = users.administrator.schema
    watched = Watched("installations", Column("id"), None, outbox_schema=home)
    users.execute("CREATE TABLE installations (id text)", "GRANT INSERT, DELETE ON installations TO application")
    users.execute("REVOKE INSERT ON vercel_outbox FROM application")
    search = f"SET search_path = {home}" if home else "SELECT 1"
    place = f"{home}.installations" if home else "installations"
    try:
        made = create(users.administrator, replace(watched, table=place))
        assert made.warning is not None
        assert user_of("application", users.administrator) in made.warning
        assert_refused(users.application, f"INSERT INTO {place} VALUES ('icfg_1')")
        users.execute(*users.granted.after)
        assert [one.level for one in check_triggers(users.administrator)] == [Level.OK]
        assert [one.level for one in check_triggers(users.dispatcher)] == [Level.OK]
        with application.begin() as connection:
            connection.exec_driver_sql(search)
            connection.exec_driver_sql("INSERT INTO installations VALUES ('icfg_1')")
        assert count(users.dispatcher, outbox) == 1
    finally:
        users.execute("DROP TABLE installations", "DROP FUNCTION vercel_outbox_installation_of_installations")


def test_the_dispatcher_can_create_no_table_and_change_no_other_row(users: Users) -> None:
    assert_refused(
        users.dispatcher,
        "CREATE TABLE vercel_mine (id int)",
        "CREATE INDEX vercel_mine ON vercel_outbox (created_at)",
        *(f"ALTER TABLE {table} ADD mine int" for table in TABLES),
        *(f"DROP TABLE {table}" for table in TABLES),
        *(f"TRUNCATE TABLE {table}" for table in TABLES),
        "UPDATE vercel_outbox SET resource_id = 'db_2'",
        "UPDATE vercel_attempt SET outcome = 'delivered'",
        "DELETE FROM vercel_collector",
        f"UPDATE {VERSION_TABLE} SET version_num = '0'",
    )


def test_the_migrator_migrates_up_and_down_and_up_again_and_reads_nothing_of_the_partners(users: Users) -> None:
    users.execute("DROP TABLE IF EXISTS secrets_of_the_partner", "CREATE TABLE secrets_of_the_partner (id int)")
    try:
        migration.downgrade(users.migrator)
        migration.migrate(users.migrator)
        schema.check(users.migrator)
        assert_refused(users.migrator, "SELECT id FROM secrets_of_the_partner", "DROP TABLE secrets_of_the_partner")
    finally:
        users.execute("DROP TABLE secrets_of_the_partner")


@pytest.mark.parametrize("server", ["postgresql"], indirect=True)
async def test_the_migrator_creates_the_trigger_and_the_dispatcher_listens(users: Users) -> None:
    with users.migrator.engine.begin() as connection:
        connection.exec_driver_sql(trigger_sql(users.migrator.schema).replace("%", "%%"))
    notifier = await Notifier.connect(users.dispatcher)
    assert await notifier.arm()
    await notifier.close()
    with users.migrator.engine.begin() as connection:
        connection.exec_driver_sql("DROP FUNCTION vercel_outbox_wakeup CASCADE")


def test_check_requires_exactly_what_is_granted(users: Users) -> None:
    assert [one.level for one in check_privileges(users.dispatcher)] == [Level.OK]
    assert [one.level for one in check_tables(users.dispatcher)] == [Level.OK]
    for privilege, table in [(one, table.name) for table, all_ in needed().items() for one in all_]:
        users.execute(f"REVOKE {privilege} ON {table} FROM dispatcher")
        (missing,) = check_privileges(users.dispatcher)
        # Trying the other privileges requires SELECT, so without it they are named as well.
        assert re.search(rf": GRANT .*\b{privilege}\b.* ON \S*{table} TO ", missing.what), missing.what
        users.execute(f"GRANT {privilege} ON {table} TO dispatcher")
