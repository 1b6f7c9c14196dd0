"""A program works on every revision of its major version, and a migration to the next minor one only adds."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
import sqlalchemy as sa
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from dispatcher import store
from dispatcher.database import migration, revisions, schema
from dispatcher.database.mysql import Mysql
from dispatcher.database.transactions import Database
from dispatcher.inspection.backlog import measure
from dispatcher.inspection.checks.database import check_tables
from dispatcher.inspection.checks.finding import Level
from dispatcher.inspection.checks.privileges import check_privileges
from dispatcher.inspection.installation_list import list_installations
from dispatcher.inspection.installations import find_installations
from dispatcher.outbox.tables import VERSION_TABLE, dispatcher, installation, metadata, outbox
from dispatcher.store import installations as operate
from tests.contract.databases import on_servers, on_sqlite
from tests.contract.steps import (
    DEADLINE_SECONDS,
    GRACES,
    ID,
    collect,
    count,
    deliver,
    in_background,
    stays_blocked,
    write,
)
from tests.migration.definitions import definitions
from tests.migration.revisions import FIRST, NEXT, execute, expanded, migrate_to
from tests.tables import drop_tables

pytestmark = pytest.mark.varies


@pytest.fixture
def first(bare_database: Database) -> Iterator[Database]:
    """A database with the tables of the first revision."""
    migrate_to(bare_database, FIRST)
    yield bare_database
    drop_tables(bare_database)


def use(database: Database, partner: Engine) -> None:
    """Does with the database what the service and the commands do."""
    with partner.begin() as connection:
        write(connection, "db_1")
    assert deliver(database) == ["db_1"]
    collect(database, partner, "db_2")
    assert operate.pause(database, ID)
    assert [one.state for one in list_installations(database, GRACES, 9)] == ["paused"]
    assert operate.resume(database, ID)
    with database.read() as connection:
        assert find_installations(connection, database, GRACES, [ID])[ID].deliveries == 1
    assert measure(database).left == 1
    assert operate.purge(database, ID, lambda _: None) == 1
    store.check_writes(database)


def test_it_works_on_an_earlier_revision_and_says_what_is_missing(first: Database, plain_engine: Engine) -> None:
    warning = schema.check(first).warning
    assert warning
    for part in (FIRST, "vercel_dispatcher", "vercel_installation.paused_by", "Run `dispatcher migrate`"):
        assert part in warning
    assert not first.has(*dispatcher.c)
    assert not first.has(installation.c.paused_by)
    assert first.has(installation.c.pause_reason)
    use(first, plain_engine)
    assert [(one.level, one.what) for one in check_tables(first)] == [(Level.WARNING, warning)]
    assert {one.level for one in check_privileges(first)} == {Level.OK}


def test_what_was_missing_is_used_after_the_migration(first: Database, plain_engine: Engine) -> None:
    schema.check(first)
    assert migration.migrate(first) == revisions.newest()
    assert schema.check(first).warning is None
    assert first.has(*dispatcher.c, installation.c.paused_by)
    use(first, plain_engine)


def test_it_works_on_a_later_revision_and_leaves_it_as_it_is(database: Database, partner: Engine) -> None:
    with expanded(database):
        assert schema.check(database) == schema.Schema(NEXT)
        assert migration.migrate(database) == NEXT
        use(database, partner)
        (found,) = check_tables(database)
        assert found.level is Level.OK
        assert f"at revision {NEXT}, newer than this program" in found.what


@pytest.mark.parametrize("revision", ["0100", "9999", "x"])
def test_another_major_version_is_refused(database: Database, revision: str) -> None:
    with database.engine.begin() as connection:
        connection.execute(sa.update(version_table(database)).values(version_num=revision))
    for refuse in (schema.check, migration.migrate):
        with pytest.raises(schema.UnusableSchema, match=f"at schema {revision}, which this program does not know"):
            refuse(database)
    with database.engine.begin() as connection:
        connection.execute(sa.update(version_table(database)).values(version_num=revisions.newest()))


def test_an_earlier_major_version_asks_for_the_migration(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(revisions, "known", lambda: {FIRST, "0002", "0100"})
    with pytest.raises(
        schema.UnusableSchema, match="at schema 0002, this program needs 0100: run `dispatcher migrate`"
    ):
        schema.check(database)


def test_tables_that_lack_a_column_of_the_first_revision_are_refused_and_left_alone(first: Database) -> None:
    """As an unreleased version made them: no migration would make them usable, and the old release would refuse the newer revision."""
    execute(first, "ALTER TABLE {}vercel_installation DROP COLUMN suspects")
    for refuse in (schema.check, migration.migrate):
        with pytest.raises(
            schema.UnusableSchema, match=r"the tables lack vercel_installation\.suspects: something else"
        ):
            refuse(first)
    with first.read() as connection:
        assert connection.execute(sa.select(version_table(first).c.version_num)).scalars().all() == [FIRST]


def version_table(database: Database) -> sa.TableClause:
    return sa.table(VERSION_TABLE, sa.column("version_num"), schema=database.schema)


def test_tables_of_the_partners_own_migrations_may_lack_what_was_added(first: Database, plain_engine: Engine) -> None:
    with first.engine.begin() as connection:
        connection.execute(sa.schema.DropTable(sa.Table(VERSION_TABLE, sa.MetaData(), schema=first.schema)))
    warning = schema.check(first).warning
    assert warning
    assert "vercel_dispatcher" in warning
    assert "your own migrations" in warning
    assert "Run `dispatcher migrate`" not in warning
    use(first, plain_engine)
    with first.engine.begin() as connection:
        metadata.drop_all(connection)


# The second revision ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_it_keeps_the_rows_and_never_repeats_an_id(first: Database, plain_engine: Engine) -> None:
    with plain_engine.begin() as connection:
        write(connection, "db_1", "db_2", "db_3")
    before = rows(first)
    with first.engine.begin() as connection:
        connection.execute(sa.delete(outbox).where(outbox.c.id == before[-1].id))
    migration.migrate(first)
    assert rows(first) == before[:-1]
    with plain_engine.begin() as connection:
        write(connection, "db_4")
    assert rows(first)[-1].id > before[-1].id
    assert sorted(map(str, deliver(first))) == ["db_1", "db_2", "db_4"]


def rows(database: Database) -> list[sa.Row[tuple[object, ...]]]:
    with database.read() as connection:
        return list(connection.execute(sa.select(outbox).order_by(outbox.c.id)).all())


def test_an_empty_outbox_continues_its_ids_too(first: Database, plain_engine: Engine) -> None:
    with plain_engine.begin() as connection:
        write(connection, "db_1")
    (before,) = rows(first)
    assert deliver(first) == ["db_1"]
    migration.migrate(first)
    with plain_engine.begin() as connection:
        write(connection, "db_2")
    assert rows(first)[0].id > before.id


def test_it_goes_down_and_up_again(first: Database, plain_engine: Engine) -> None:
    earlier = definitions(first)
    migration.migrate(first)
    newest = definitions(first)
    with plain_engine.begin() as connection:
        write(connection, "db_1")
        connection.execute(
            sa.text("INSERT INTO vercel_outbox (installation_id, type) VALUES ('icfg_1', 'installation.removed')")
        )
    migration.downgrade(first, FIRST)
    assert without_dropped_columns(definitions(first)) == earlier
    assert [row.resource_id for row in rows_of_first(first)] == ["db_1"]
    migration.migrate(first)
    assert without_dropped_columns(definitions(first)) == newest


def without_dropped_columns(found: dict[str, list[str]]) -> dict[str, list[str]]:
    """PostgreSQL keeps the places of dropped columns."""
    return {
        name: [line for line in lines if not line.startswith("........pg.dropped")] for name, lines in found.items()
    }


def rows_of_first(database: Database) -> list[sa.Row[tuple[str]]]:
    with database.read() as connection:
        return list(connection.execute(sa.select(outbox.c.resource_id)).all())


PARTNERS = """
CREATE TABLE resources (id TEXT PRIMARY KEY, installation_id TEXT);
CREATE TRIGGER announce AFTER INSERT ON resources BEGIN
  INSERT INTO vercel_outbox (installation_id, type, resource_id) VALUES (NEW.installation_id, 'resource.updated', NEW.id);
END;
CREATE TABLE audit (event INTEGER);
CREATE TRIGGER watch AFTER INSERT ON vercel_outbox BEGIN INSERT INTO audit VALUES (NEW.id); END;
CREATE INDEX theirs ON vercel_outbox (installation_id) WHERE type <> ':no parameter';
CREATE VIEW waiting AS SELECT count(*) AS events FROM vercel_outbox;
"""
ADD_RESOURCE = "INSERT INTO resources VALUES ('{}', 'icfg_1')"


@on_sqlite
def test_on_sqlite_what_partners_built_on_the_outbox_survives(first: Database, plain_engine: Engine) -> None:
    raw = plain_engine.raw_connection()
    raw.cursor().executescript(PARTNERS)
    raw.close()
    with plain_engine.begin() as connection:
        connection.exec_driver_sql(ADD_RESOURCE.format("db_1"))
    before = partners_objects(first)
    migration.migrate(first)
    assert partners_objects(first) == before
    with plain_engine.begin() as connection:
        connection.exec_driver_sql(ADD_RESOURCE.format("db_2"))
    with first.read() as connection:
        assert connection.exec_driver_sql("SELECT * FROM audit").all() == [(1,), (2,)]
        assert connection.exec_driver_sql("SELECT events FROM waiting").all() == [(2,)]
        assert connection.exec_driver_sql("PRAGMA integrity_check").all() == [("ok",)]
    assert sorted(map(str, deliver(first))) == ["db_1", "db_2"]


def partners_objects(database: Database) -> list[str]:
    theirs = (
        "SELECT sql FROM sqlite_master WHERE name IN ('resources', 'announce', 'audit', 'watch', 'theirs', 'waiting')"
    )
    with database.read() as connection:
        return sorted(connection.exec_driver_sql(theirs).scalars())


@on_sqlite
def test_on_sqlite_a_row_written_past_the_checks_does_not_stop_it(first: Database, plain_engine: Engine) -> None:
    with plain_engine.begin() as connection:
        connection.exec_driver_sql("PRAGMA ignore_check_constraints = ON")
        connection.exec_driver_sql(
            "INSERT INTO vercel_outbox (installation_id, type, resource_id, created_at) VALUES (x'ff', 'no', 7, '12')"
        )
        connection.exec_driver_sql("PRAGMA ignore_check_constraints = OFF")
    before = raw_rows(first)
    migration.migrate(first)
    assert raw_rows(first) == before == [(b"\xff", "no", "7", "12")]
    with pytest.raises(DBAPIError, match="vercel_outbox_type_is_known"), plain_engine.begin() as connection:
        connection.exec_driver_sql("INSERT INTO vercel_outbox (installation_id, type) VALUES ('icfg_1', 'no')")


def raw_rows(database: Database) -> list[tuple[object, ...]]:
    columns = "installation_id, type, resource_id, CAST(created_at AS TEXT)"
    with database.read() as connection:
        return [tuple(row) for row in connection.exec_driver_sql(f"SELECT {columns} FROM vercel_outbox")]


@on_sqlite
def test_on_sqlite_one_that_fails_changes_nothing(first: Database, plain_engine: Engine) -> None:
    """A column that a partner added to the outbox would get lost."""
    with plain_engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE vercel_outbox ADD COLUMN theirs TEXT")
        write(connection, "db_1")
    before = definitions(first), rows(first)
    with pytest.raises(DBAPIError, match="vercel_outbox has 8 columns but 9 values were supplied"):
        migration.migrate(first)
    assert (definitions(first), rows(first)) == before
    assert schema.check(first).revision == FIRST


@contextmanager
def open_transaction(partner: Engine) -> Iterator[Connection]:
    """A partner's transaction that has written an event and does not end."""
    with partner.connect() as connection, connection.begin():
        write(connection, "db_slow")
        yield connection


@on_servers
def test_behind_a_long_transaction_it_lets_other_writes_through(
    first: Database, plain_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Mysql, "lock_seconds", 1)
    with ExitStack() as ends_last, open_transaction(plain_engine):
        migrating = ends_last.enter_context(in_background(lambda: migration.migrate(first)))
        for number in range(3):
            assert stays_blocked(migrating, first)
            with plain_engine.begin() as connection:
                write(connection, f"db_{number}")
    assert migrating.result(DEADLINE_SECONDS) == revisions.newest()
    assert sorted(map(str, deliver(first))) == ["db_0", "db_1", "db_2", "db_slow"]


@on_servers
def test_behind_a_transaction_that_does_not_end_it_gives_up_and_says_so(
    first: Database, plain_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Mysql, "lock_seconds", 1)
    monkeypatch.setattr(migration, "MAX_TRIES", 2)
    monkeypatch.setattr(migration, "LOCKED_PAUSE_SECONDS", 0.01)
    with open_transaction(plain_engine), pytest.raises(schema.UnusableSchema, match="keeps a table locked"):
        migration.migrate(first)
    assert schema.check(first).revision == FIRST
    assert deliver(first) == ["db_slow"]
    assert migration.migrate(first) == revisions.newest()
    assert count(first, dispatcher) == 0
