"""`dispatcher run` as the sidecar of an application: it stops after the application, and survives an outage of its database."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from tests.contract.servers import Server, own_postgresql
from tests.processes.conftest import HTTP, Stage, free_port, wait_until

# Like other applications, it finishes its last piece of work after SIGTERM.
APPLICATION = """
import signal, sqlite3, sys
connection = sqlite3.connect(sys.argv[1], timeout=10)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
print("serving", flush=True)
signal.sigwait([signal.SIGTERM])
connection.execute("INSERT INTO vercel_outbox (installation_id, type, resource_id) VALUES ('icfg_1', 'resource.updated', 'last')")
connection.commit()
"""
INSERT = "INSERT INTO vercel_outbox (installation_id, type, resource_id) VALUES ('icfg_1', 'resource.updated', :r)"


@pytest.fixture
def application(stage: Stage) -> Iterator[subprocess.Popen[str]]:
    """A running application on the stage's SQLite database."""
    command = [sys.executable, "-c", APPLICATION, str(stage.path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "serving\n"
        try:
            yield process
        finally:
            process.kill()


def test_the_application_stops_and_its_last_commit_is_still_delivered(
    stage: Stage, application: subprocess.Popen[str]
) -> None:
    """Kubernetes ends a pod with a native sidecar in this order. The next regular look at the outbox would be much later."""
    service = stage.start_service(DISPATCHER_POLL_INTERVAL="10m", DISPATCHER_SHUTDOWN_GRACE="10s")
    application.send_signal(signal.SIGTERM)
    assert application.wait(60) == 0
    service.send_signal(signal.SIGTERM)
    assert service.wait(60) == 0
    assert [one["body"]["event"]["resourceId"] for one in stage.requests()] == ["last"]
    assert stage.query("SELECT count(*) FROM vercel_delivery") == [(0,)]


def test_it_ends_within_the_grace_however_much_is_left(stage: Stage) -> None:
    stage.script(delay=0.5)
    service = stage.start_service(DISPATCHER_CONCURRENCY="1", DISPATCHER_SHUTDOWN_GRACE="3s")
    stage.commit(*(f"db_{number}" for number in range(50)))
    wait_until(stage.requests)
    service.send_signal(signal.SIGTERM)
    assert service.wait(60) == 0
    ((left,),) = stage.query("SELECT count(*) FROM vercel_delivery")
    assert 0 < left < 50
    assert stage.query("SELECT lease_token FROM vercel_installation") == [(None,)]


@pytest.mark.gate
def test_a_loop_that_is_stuck_is_unhealthy(stage: Stage) -> None:
    service = stage.start_service()
    assert stage.run("health").returncode == 0
    service.freeze()
    stuck = stage.run("health")
    assert (stuck.returncode, stuck.stdout) == (4, "")
    service.thaw()
    wait_until(lambda: stage.run("health").returncode == 0)


@pytest.fixture
def own_server() -> Iterator[Server]:
    """A PostgreSQL server of this test's own."""
    with own_postgresql() as made:
        yield made


@pytest.fixture
def on_postgresql(stage: Stage, own_server: Server) -> Stage:
    """The stage, with its database on that server."""
    stage.environment["DISPATCHER_DATABASE_URL"] = own_server.get_uri()
    assert stage.run("migrate").returncode == 0
    return stage


def probe(stage: Stage, path: str) -> tuple[int, Any]:
    answer = HTTP.get(f"http://127.0.0.1:{stage.ops_port}{path}")
    return answer.status_code, answer.json()


def is_live_but_not_ready(stage: Stage, step: str) -> bool:
    """Whether the probes say that the service cannot reach its database."""
    live, (status, ready) = probe(stage, "/livez"), probe(stage, "/readyz")
    is_named = str(ready["reason"]).startswith(f"{step}: the database cannot be reached")
    return live == (200, {"live": True}) and status == 503 and is_named


@pytest.mark.gate
def test_the_probes_follow_the_database_without_a_restart(on_postgresql: Stage, own_server: Server) -> None:
    stage = on_postgresql
    service = stage.start_service()
    assert probe(stage, "/livez") == (200, {"live": True})
    assert probe(stage, "/readyz") == (200, {"ready": True, "reason": None})

    own_server.stop()
    wait_until(lambda: is_live_but_not_ready(stage, "tick"))
    assert stage.run("health").returncode == 0

    own_server.start()
    delivers(stage, own_server)
    assert service.poll() is None
    service.send_signal(signal.SIGTERM)
    assert service.wait(60) == 0
    failed = {line["why"] for line in service.lines if line["event"] == "step failed, trying again"}
    assert any(why.startswith("the database cannot be reached: ") for why in failed), failed
    recovered = [line for line in service.lines if line["event"] == "step works again" and line["step"] == "tick"]
    assert recovered
    assert all(line["seconds"] > 0 for line in recovered)


@pytest.mark.gate
def test_a_database_that_is_away_at_the_start_is_waited_for(on_postgresql: Stage, own_server: Server) -> None:
    stage = on_postgresql
    own_server.stop()
    stage.ops_port = free_port()
    service = stage.start("run", DISPATCHER_OPS_PORT=str(stage.ops_port))
    wait_until(lambda: is_live_but_not_ready(stage, "start"))
    assert stage.run("health").returncode == 0
    waiting = wait_until(lambda: service.logged("waiting for the database"))
    assert "failed" in waiting["why"]

    own_server.start()
    delivers(stage, own_server)
    assert [line["event"] for line in service.lines].count("waiting for the database") <= 2  # one for each reason
    service.send_signal(signal.SIGTERM)
    assert service.wait(60) == 0


@pytest.mark.gate
def test_while_it_waits_for_the_database_it_stops_at_once(on_postgresql: Stage, own_server: Server) -> None:
    own_server.stop()
    service = on_postgresql.start("run")
    wait_until(lambda: service.logged("waiting for the database"))
    service.send_signal(signal.SIGTERM)
    assert service.wait(60) == 0


def delivers(stage: Stage, own_server: Server) -> None:
    """Waits until the service is ready again, and has delivered one event."""
    wait_until(lambda: probe(stage, "/readyz") == (200, {"ready": True, "reason": None}))
    engine = sa.create_engine(own_server.get_uri().replace("postgresql://", "postgresql+psycopg://"))
    with engine.begin() as connection:
        connection.execute(sa.text(INSERT), {"r": "db_after"})
    engine.dispose()
    wait_until(lambda: [one["body"]["event"]["resourceId"] for one in stage.requests()] == ["db_after"])
