"""SIGTERM ends the service soon after its grace, whatever its database does: the process sets itself an alarm."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa

from dispatcher.cli.exits import Exit
from dispatcher.database.transactions import open_database
from tests.conftest import not_tested
from tests.contract.proxy import proxy_before
from tests.contract.servers import MARIADB, own_mariadb
from tests.processes.conftest import BLOCKED, Running, Stage, wait_until

pytestmark = pytest.mark.gate

SHORT_GRACE = {"DISPATCHER_SHUTDOWN_GRACE": "1s"}
ENDED = {Exit.DONE, Exit.UNREACHABLE}
TABLES = ("vercel_outbox", "vercel_delivery", "vercel_installation", "vercel_collector", "vercel_attempt")
on_both = pytest.mark.parametrize("server", ["postgresql", "mysql"], indirect=True)


def ends(service: Running) -> bool:
    """Whether SIGTERM ends the service with an expected exit code."""
    service.send_signal(signal.SIGTERM)
    return service.wait(60) in ENDED


def delivers_afterwards(stage: Stage) -> bool:
    """Whether the next service delivers as if nothing had happened."""
    at = stage.commit("db_2")
    stage.start_service()
    return bool(wait_until(lambda: stage.received("db_1", 0.0) and stage.received("db_2", at)))


@on_both
def test_while_another_session_keeps_the_tables_locked(stage: Stage) -> None:
    service = stage.start_service(**SHORT_GRACE)
    with locked(stage):
        assert ends(service), service.log
    stage.commit("db_1")
    assert delivers_afterwards(stage)


@on_both
def test_while_an_answer_cannot_be_settled(stage: Stage) -> None:
    """The request ends within the grace, the settlement does not."""
    stage.script(hang=True, times=1)
    service = stage.start_service(DISPATCHER_REQUEST_TIMEOUT="500ms", DISPATCHER_LEASE="2s", **SHORT_GRACE)
    stage.commit("db_1")
    wait_until(lambda: stage.requests(None))
    with locked(stage):
        assert ends(service), service.log
    assert delivers_afterwards(stage)


@contextmanager
def locked(stage: Stage) -> Iterator[None]:
    """Locks the tables within the block, and enters it once the service waits for the lock."""
    is_postgresql = stage.partner.dialect.name == "postgresql"
    lock = f"LOCK TABLE {', '.join(TABLES)}" if is_postgresql else f"LOCK TABLES {' WRITE, '.join(TABLES)} WRITE"
    with stage.partner.connect() as connection:
        connection.exec_driver_sql(lock)
        wait_until(lambda: stage.query(BLOCKED[stage.partner.dialect.name]))
        yield
        connection.exec_driver_sql("ROLLBACK" if is_postgresql else "UNLOCK TABLES")


@on_both
def test_behind_a_proxy_that_has_fallen_silent(stage: Stage) -> None:
    with proxy_before(sa.make_url(stage.environment["DISPATCHER_DATABASE_URL"])) as (proxy, url):
        service = stage.start_service(DISPATCHER_DATABASE_URL=url.render_as_string(hide_password=False), **SHORT_GRACE)
        proxy.fall_silent()
        assert ends(service), service.log
    stage.commit("db_1")
    assert delivers_afterwards(stage)


@pytest.mark.parametrize(("server", "command"), [("postgresql", "run"), ("mysql", "drain")], indirect=["server"])
def test_at_its_start_behind_a_proxy_that_has_fallen_silent(stage: Stage, command: str) -> None:
    with proxy_before(sa.make_url(stage.environment["DISPATCHER_DATABASE_URL"])) as (proxy, url):
        proxy.fall_silent_at(b"vercel_dispatcher_version")  # its first query
        service = stage.start(command, DISPATCHER_DATABASE_URL=url.render_as_string(hide_password=False), **SHORT_GRACE)
        wait_until(lambda: proxy.is_silent)
        service.send_signal(signal.SIGTERM)
        assert service.wait(60) == (Exit.DONE if command == "run" else Exit.UNREACHABLE), service.log


@pytest.fixture
def stage_on_own_mariadb(tmp_path: Path) -> Iterator[Stage]:
    """A stage on a MariaDB server of the test's own."""
    if MARIADB is None:
        not_tested("mariadbd is not installed (Debian: apt-get install mariadb-server)")
    with own_mariadb(1) as url:
        database = open_database(url.render_as_string())
        partner = sa.create_engine(database.engine.url)
        stage = Stage(tmp_path, database, partner)
        with stage.playing():
            yield stage
        partner.dispose()
        database.close()


def test_while_mariadb_is_frozen(stage_on_own_mariadb: Stage) -> None:
    stage = stage_on_own_mariadb
    service = stage.start_service(**SHORT_GRACE)
    with frozen(int(Path(stage.query("SELECT @@pid_file")[0][0]).read_text())):
        assert ends(service), service.log
    stage.commit("db_1")
    assert delivers_afterwards(stage)


@pytest.mark.parametrize("server", ["postgresql-18"], indirect=True)
def test_while_postgresql_is_frozen(stage: Stage) -> None:
    service = stage.start_service(**SHORT_GRACE)
    others = "datname = current_database() AND client_port IS NOT NULL AND pid <> pg_backend_pid()"
    with frozen(*(int(pid) for (pid,) in stage.query(f"SELECT pid FROM pg_stat_activity WHERE {others}"))):
        service.send_signal(signal.SIGTERM)
        assert service.wait(60) == Exit.UNREACHABLE
    assert service.logged("not stopped in time")
    stage.commit("db_1")
    assert delivers_afterwards(stage)


@contextmanager
def frozen(*pids: int) -> Iterator[None]:
    """Stops these processes of a server for the duration of the block; its connections stay open."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
