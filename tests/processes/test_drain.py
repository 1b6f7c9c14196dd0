"""`dispatcher drain` during an outage of Vercel: it ends, reports what is left, and loses nothing."""

import json
import os
import pty
import subprocess
from collections.abc import Callable

import pytest

from tests.processes.conftest import DISPATCHER, Stage, wait_until

INSTALLATIONS, RESOURCES = 30, 10
LEFT = INSTALLATIONS * RESOURCES


def fails(stage: Stage) -> dict[str, str]:
    stage.script(status=503)
    return {}


def hangs(stage: Stage) -> dict[str, str]:
    stage.script(hang=True)
    return {"DISPATCHER_REQUEST_TIMEOUT": "1s"}


def is_unreachable(_: Stage) -> dict[str, str]:
    return {"DISPATCHER_VERCEL_BASE_URL": "http://127.0.0.1:9"}


def commit(stage: Stage) -> None:
    """Commits a backlog of many installations."""
    rows = [
        f"('icfg_{installation}', 'resource.updated', 'db_{resource}')"
        for installation in range(INSTALLATIONS)
        for resource in range(RESOURCES)
    ]
    with stage.partner.begin() as connection:
        connection.exec_driver_sql(
            f"INSERT INTO vercel_outbox (installation_id, type, resource_id) VALUES {', '.join(rows)}"
        )


@pytest.mark.parametrize("outage", [fails, hangs, is_unreachable])
def test_during_an_outage_it_ends_and_leaves_everything_to_the_next(
    stage: Stage, outage: Callable[[Stage], dict[str, str]]
) -> None:
    """A drain that waited until everything is due again would take minutes, and many more requests."""
    commit(stage)
    drained = stage.run("drain", "--json", "--fail-if-waiting", **outage(stage))
    result = json.loads(drained.stdout)
    assert drained.returncode == 5, drained.stderr
    assert (result["delivered"], result["dead_lettered"], result["waiting"]) == (0, 0, LEFT)
    assert 0 < result["requests"] < LEFT
    assert stage.query("SELECT count(*) FROM vercel_installation WHERE lease_token IS NOT NULL") == [(0,)]


def test_after_the_outage_the_next_one_delivers_it_all(stage: Stage) -> None:
    commit(stage)
    assert stage.run("drain", **is_unreachable(stage)).returncode == 0
    wait_until(lambda: stage.run("drain", "--fail-if-waiting", DISPATCHER_RATE_LIMIT="off").returncode == 0)
    assert len({(one["installation_id"], one["body"]["event"]["resourceId"]) for one in stage.requests()}) == LEFT
    assert stage.count("vercel_dead_letter") == 0


def test_at_a_terminal_the_progress_is_shown(stage: Stage) -> None:
    stage.commit("db_1", "db_2", "db_2")
    controller, terminal = pty.openpty()
    with os.fdopen(terminal, "wb") as screen:
        done = subprocess.run(
            [DISPATCHER, "drain", "--json"],
            env=stage.environment,
            cwd=stage.directory,
            stdout=subprocess.PIPE,
            stderr=screen,
            check=True,
        )
        os.set_blocking(controller, False)
        shown = os.read(controller, 65_536).decode()
    os.close(controller)
    assert "\r3 events collected, 2 delivered, 0 dead letters\r\n" in shown
    assert json.loads(done.stdout)["delivered"] == 2
