"""Bad input leads to one line and an exit code, and nothing is lost."""

import contextlib
import sqlite3

import pytest

from tests.processes.conftest import Stage, wait_until

AWAY = "postgresql://partner:s3cret@127.0.0.1:9/none"


@pytest.mark.parametrize(
    ("setting", "value", "text"),
    [
        ("DISPATCHER_LEESE", "60s", "DISPATCHER_LEASE"),
        ("DISPATCHER_LEASE", "a while", "DISPATCHER_LEASE"),
        ("DISPATCHER_REQUEST_TIMEOUT", "10m", "DISPATCHER_LEASE must be at least"),
        ("DISPATCHER_VERCEL_BASE_URL", "ftp://x", "DISPATCHER_VERCEL_BASE_URL"),
        ("DISPATCHER_DATABASE_URL", "oracle://x", "DISPATCHER_DATABASE_URL"),
        ("DISPATCHER_WAKEUP", "notify", "DISPATCHER_WAKEUP"),
    ],
)
@pytest.mark.parametrize("command", ["run", "drain"])
def test_settings_that_cannot_be_used_end_the_start(
    bare: Stage, command: str, setting: str, value: str, text: str
) -> None:
    ended = bare.run(command, **{setting: value})
    assert (ended.returncode, ended.stdout) == (2, "")
    assert text in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def test_without_a_token_it_does_not_start(bare: Stage) -> None:
    del bare.environment["DISPATCHER_VERCEL_TOKEN"]
    ended = bare.run("run", DISPATCHER_DATABASE_URL=AWAY)  # which does not delay it
    assert ended.returncode == 2
    assert "DISPATCHER_VERCEL_TOKEN" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


@pytest.mark.parametrize("command", ["run", "drain"])
def test_a_database_without_the_tables_is_refused_with_the_remedy(bare: Stage, command: str) -> None:
    with contextlib.closing(sqlite3.connect(bare.path)) as connection:
        connection.execute("CREATE TABLE partner (id INTEGER)")
    ended = bare.run(command)
    assert ended.returncode == 1
    assert "dispatcher migrate" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_newer_database_is_refused(bare: Stage) -> None:
    bare.run("migrate")
    with contextlib.closing(sqlite3.connect(bare.path)) as connection:
        connection.execute("UPDATE vercel_dispatcher_version SET version_num = '9999'")
        connection.commit()
    for command in ("run", "migrate"):
        ended = bare.run(command)
        assert ended.returncode == 1
        assert "9999" in ended.stderr
        assert "upgrade" in ended.stderr


@pytest.mark.parametrize("command", ["drain", "migrate"])
def test_a_database_that_cannot_be_reached_is_exit_code_75(bare: Stage, command: str) -> None:
    ended = bare.run(command, DISPATCHER_DATABASE_URL=AWAY)
    assert ended.returncode == 75
    assert "cannot be reached" in ended.stderr
    assert "s3cret" not in ended.stderr
    assert "Traceback" not in ended.stderr


def test_an_ops_port_that_is_taken_is_named(stage: Stage) -> None:
    stage.start_service()
    ended = stage.run("run")
    assert ended.returncode == 1
    assert str(stage.ops_port) in ended.stderr
    assert "Traceback" not in ended.stderr


def test_garbage_written_past_the_constraints_is_buried_alone(stage: Stage) -> None:
    with contextlib.closing(sqlite3.connect(stage.path)) as connection:
        connection.execute("PRAGMA ignore_check_constraints = 1")
        insert = "INSERT INTO vercel_outbox (installation_id, type, resource_id) VALUES (?, ?, ?)"
        connection.execute(insert, (b"\xff\xfe", "resource.updated", "db_1"))
        connection.execute(insert, ("icfg_1", "nonsense", "db_1"))
        connection.execute(insert, ("icfg_1", "resource.updated", "x" * 10_000_000))
        connection.execute(insert, ("icfg_1", "resource.updated", "db_good"))
        connection.commit()
    stage.start_service()
    wait_until(stage.requests)
    wait_until(lambda: stage.query("SELECT count(*) FROM vercel_dead_letter WHERE reason = 'malformed'") == [(3,)])
    assert [one["body"]["event"]["resourceId"] for one in stage.requests()] == ["db_good"]
