"""The token service of the deployment guide, as it stands there, with a service that looks its tokens up."""

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing

import pytest
from cryptography.fernet import Fernet

from tests.deploy.documents import blocks
from tests.processes.conftest import HTTP, Stage, free_port, wait_until

pytestmark = pytest.mark.gate

TOKEN, SECRET = "t0ken-of-the-test", "s3cret-of-the-service"


@pytest.fixture
def token_service(stage: Stage) -> Iterator[str]:
    """Its URL, for DISPATCHER_CREDENTIALS_URL; it has the token of icfg_1, encrypted."""
    (block,) = (block for block in blocks("README.md", "ini") if "DISPATCHER_CREDENTIALS_URL=" in block)
    settings = dict(line.split("=", 1) for line in block.splitlines())
    (program,) = blocks("README.md", "python")
    (stage.directory / "app.py").write_text(program)
    key = Fernet.generate_key()
    with closing(sqlite3.connect(stage.directory / "partner.db")) as database, database:
        database.execute("CREATE TABLE installations (id TEXT PRIMARY KEY, encrypted_token BLOB)")
        database.execute("INSERT INTO installations VALUES ('icfg_1', ?)", (Fernet(key).encrypt(TOKEN.encode()),))
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "app:app", "--port", str(port), "--log-level", "warning"]
    secrets = {"TOKENS_SECRET": SECRET, "TOKENS_KEY": key.decode()}
    del stage.environment["DISPATCHER_VERCEL_TOKEN"]
    stage.environment["DISPATCHER_ALLOW_INSECURE_BASE_URL"] = "true"
    with subprocess.Popen(command, cwd=stage.directory, env=stage.environment | secrets) as serving:
        try:
            wait_until(lambda: HTTP.get(f"http://127.0.0.1:{port}/").status_code == 404)
            yield settings["DISPATCHER_CREDENTIALS_URL"].replace(":8000/", f":{port}/")
        finally:
            serving.terminate()


def test_an_encrypted_token_reaches_vercel(stage: Stage, token_service: str) -> None:
    settings = {"DISPATCHER_CREDENTIALS_URL": token_service, "DISPATCHER_CREDENTIALS_URL_TOKEN": SECRET}
    stage.commit("db_1")
    checked = stage.run("check", "--live", "--installation", "icfg_1", **settings)
    assert "Vercel accepts the token of icfg_1" in checked.stdout, checked.stdout
    drained = stage.run("drain", **settings)
    assert drained.returncode == 0, drained.stderr
    (request,) = stage.requests(201)
    assert (request["installation_id"], request["body"]["event"]["resourceId"]) == ("icfg_1", "db_1")


def test_an_installation_that_it_does_not_know_is_paused(stage: Stage, token_service: str) -> None:
    settings = {"DISPATCHER_CREDENTIALS_URL": token_service, "DISPATCHER_CREDENTIALS_URL_TOKEN": SECRET}
    with stage.partner.begin() as connection:
        insert = "INSERT INTO vercel_outbox (installation_id, type) VALUES ('icfg_2', 'installation.updated')"
        connection.exec_driver_sql(insert)
    stage.run("drain", **settings)
    assert stage.query("SELECT installation_id, pause_reason FROM vercel_installation") == [("icfg_2", "no_credential")]


def test_a_wrong_secret_pauses_nobody(stage: Stage, token_service: str) -> None:
    settings = {"DISPATCHER_CREDENTIALS_URL": token_service, "DISPATCHER_CREDENTIALS_URL_TOKEN": "another"}
    stage.commit("db_1")
    drained = stage.run("drain", DISPATCHER_BACKOFF_BASE="1h", DISPATCHER_BACKOFF_CAP="1h", **settings)
    assert "another" not in drained.stdout + drained.stderr
    assert stage.query("SELECT pause_reason FROM vercel_installation") == [(None,)]
    (error,) = stage.query("SELECT DISTINCT error FROM vercel_attempt WHERE outcome = 'credentials_unavailable'")
    assert "answered 401: check DISPATCHER_CREDENTIALS_URL_TOKEN" in error[0]
