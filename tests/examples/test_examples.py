"""The examples, run unchanged: a change and its event are committed together, or neither is."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import sqlalchemy as sa

from dispatcher.database import migration
from dispatcher.database.transactions import Database, open_database
from tests.conftest import not_tested
from tests.processes.conftest import free_port

CHECKOUT = Path(__file__).parents[2]
EXAMPLES = CHECKOUT / "deploy" / "examples"
SEED = "INSERT INTO databases (id, installation_id, name) VALUES ('db_1', 'icfg_1', 'first')"
INSTALL_SECONDS = 300

pytestmark = [pytest.mark.gate, pytest.mark.timeout(2 * INSTALL_SECONDS)]


@pytest.fixture
def database(postgresql_url: str) -> Iterator[Database]:
    """A PostgreSQL with the dispatcher's tables and none of the partner's."""
    opened = open_database(postgresql_url)
    with opened.engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE IF EXISTS databases, django_migrations")
    migration.migrate(opened)
    migration.downgrade(opened)
    migration.migrate(opened)
    yield opened
    migration.downgrade(opened)
    with opened.engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE IF EXISTS databases, django_migrations")
    opened.close()


def environ(database: Database, **others: str) -> dict[str, str]:
    """Returns the environment of an example: the database, and the publishing side of this checkout."""
    url = database.engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
    return {**os.environ, "DATABASE_URL": url, "PYTHONPATH": str(CHECKOUT), **others}


def installed(example: str, directory: Path) -> Path:
    """Creates a virtual environment with only the example's locked requirements, and returns its Python."""
    uv = Path(sys.executable).with_name("uv")
    subprocess.run([uv, "venv", "-q", "--python", sys.executable, directory], check=True, timeout=INSTALL_SECONDS)
    lock = EXAMPLES / example / "requirements.txt"
    python = directory / "bin" / "python"
    install = [str(uv), "pip", "install", "-q", "--require-hashes", "-r", str(lock), "--python", str(python)]
    subprocess.run(install, check=True, timeout=INSTALL_SECONDS)
    return python


@contextmanager
def running(command: list[object], where: Path, environment: Mapping[str, str], port: int) -> Iterator[str]:
    """Runs the application and yields its address."""
    application = subprocess.Popen([str(part) for part in command], cwd=where, env=environment)
    try:
        _wait_for(application, port)
        yield f"http://127.0.0.1:{port}"
    finally:
        application.terminate()
        try:
            application.wait(30)
        finally:
            application.kill()
            application.wait()


def _wait_for(application: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and application.poll() is None:
        try:
            httpx.get(f"http://127.0.0.1:{port}/", timeout=30)
        except httpx.HTTPError:
            time.sleep(0.05)
        else:
            return
    raise AssertionError("the example does not answer")


def names(database: Database) -> list[str]:
    """Returns the names of the partner's databases."""
    with database.read() as connection:
        return list(connection.exec_driver_sql("SELECT name FROM databases").scalars())


def events(database: Database) -> list[tuple[str, str, str]]:
    """Returns the events in the outbox."""
    with database.read() as connection:
        rows = connection.execute(sa.text("SELECT installation_id, type, resource_id FROM vercel_outbox"))
        return [(row[0], row[1], row[2]) for row in rows]


def seed(database: Database) -> None:
    """Inserts one database of an installation."""
    with database.engine.begin() as connection:
        connection.exec_driver_sql(SEED)


def assert_renames_or_rolls_back(url: str, database: Database) -> None:
    """Asserts the behaviour that the examples have in common."""
    seed(database)
    assert httpx.put(f"{url}/databases/db_1", params={"name": ""}, timeout=60).status_code == 422
    assert (names(database), events(database)) == (["first"], [])
    assert httpx.put(f"{url}/databases/db_2", params={"name": "x"}, timeout=60).status_code == 404
    assert events(database) == []
    assert httpx.put(f"{url}/databases/db_1", params={"name": "second"}, timeout=60).status_code == 200
    assert (names(database), events(database)) == (["second"], [("icfg_1", "resource.updated", "db_1")])


def test_sqlalchemy_and_fastapi(database: Database, tmp_path: Path) -> None:
    python, port = installed("fastapi", tmp_path / "venv"), free_port()
    command = [python, "-m", "uvicorn", "app:app", "--port", port]
    with running(command, EXAMPLES / "fastapi", environ(database), port) as url:
        assert_renames_or_rolls_back(url, database)


def test_django(database: Database, tmp_path: Path) -> None:
    python, port = installed("django", tmp_path / "venv"), free_port()
    where, environment = EXAMPLES / "django", environ(database, PYTHONDONTWRITEBYTECODE="1")
    subprocess.run([python, "manage.py", "migrate"], cwd=where, env=environment, check=True, timeout=120)
    # No migration for the dispatcher's tables.
    subprocess.run(
        [python, "manage.py", "makemigrations", "--check", "--dry-run"],
        cwd=where,
        env=environment,
        check=True,
        timeout=120,
    )
    command = [python, "manage.py", "runserver", f"127.0.0.1:{port}", "--noreload"]
    with running(command, where, environment, port) as url:
        assert_renames_or_rolls_back(url, database)
    # Its own tests, in a database of their own.
    subprocess.run([python, "manage.py", "test", "--noinput"], cwd=where, env=environment, check=True, timeout=120)


def test_node_and_typescript(database: Database, tmp_path: Path) -> None:
    missing = [command for command in ("node", "npm") if shutil.which(command) is None]
    if missing:
        not_tested(f"install {' and '.join(missing)} to run the example for Node")
    where, port = tmp_path / "node", free_port()
    shutil.copytree(EXAMPLES / "node", where, ignore=shutil.ignore_patterns("node_modules", "app.js"))
    install = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    subprocess.run(install, cwd=where, check=True, timeout=INSTALL_SECONDS)
    subprocess.run(["npm", "run", "build"], cwd=where, check=True, timeout=120)
    with running(["node", "app.js"], where, environ(database, PORT=str(port)), port) as url:
        assert_renames_or_rolls_back(url, database)


def test_plain_sql(database: Database) -> None:
    psql = shutil.which("psql") or not_tested("install psql to run the example in plain SQL")

    def run(name: str) -> int:
        url = environ(database)["DATABASE_URL"]
        command = [psql, url, "-v", "id=db_1", "-v", f"name={name}", "-f", "rename.sql"]
        return subprocess.run(command, cwd=EXAMPLES / "sql", check=False, timeout=60).returncode

    run("")
    seed(database)
    assert run("") != 0
    assert (names(database), events(database)) == (["first"], [])
    assert run("second") == 0
    assert (names(database), events(database)) == (["second"], [("icfg_1", "resource.updated", "db_1")])


def test_locks_name_no_registry() -> None:
    locks = [*EXAMPLES.glob("*/requirements.txt"), EXAMPLES / "node" / "package-lock.json"]
    assert len(locks) == 3
    for lock in locks:
        assert "://" not in lock.read_text()
        assert "sha" in lock.read_text()
