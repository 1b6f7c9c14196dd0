"""Secrets are replaced under a running service, as the runbook's chapter on rotation promises."""

import pytest

from tests.processes.conftest import Stage, wait_until

pytestmark = pytest.mark.gate
PAUSED = "SELECT 1 FROM vercel_installation WHERE pause_reason = 'unauthorized'"


def test_a_new_token_in_its_file_is_used_without_a_restart(stage: Stage) -> None:
    token, accepted = stage.directory / "token", stage.directory / "accepted"
    token.write_text("t0ken-that-was-revoked")
    accepted.write_text("t0ken-that-is-new")
    stage.start_sandbox("60/60s", "--token-file", str(accepted))
    del stage.environment["DISPATCHER_VERCEL_TOKEN"]
    stage.start_service(DISPATCHER_VERCEL_TOKEN_FILE=str(token))
    stage.commit("db_1")
    wait_until(lambda: stage.query(PAUSED))
    token.write_text("t0ken-that-is-new")
    done = stage.run("installations", "resume", "icfg_1")
    assert done.returncode == 0, done.stderr
    wait_until(lambda: stage.received("db_1", 0))
    assert not stage.query(PAUSED)


def test_a_new_database_url_in_its_file_is_used_from_the_next_start_on(stage: Stage) -> None:
    url = stage.directory / "database-url"
    url.write_text(stage.environment.pop("DISPATCHER_DATABASE_URL") + "\n")
    stage.environment["DISPATCHER_DATABASE_URL_FILE"] = str(url)
    service = stage.start_service()
    url.write_text("sqlite:////nowhere/at/all.db")
    stage.commit("db_1")
    wait_until(lambda: stage.received("db_1", 0))
    service.terminate()
    assert service.wait(60) == 0
    refused = stage.run("status")
    assert refused.returncode != 0
    assert "all.db" in refused.stderr
