"""Alembic's own command in the checkout, as authors of migrations use it."""

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from alembic.script import ScriptDirectory

from dispatcher.database import migration, revisions, schema
from dispatcher.database.transactions import Database
from dispatcher.outbox.tables import delivery
from tests.contract.steps import count, deliver, write

ROOT = Path(__file__).parents[2]
# Each Alembic command is a process of its own and takes a while.
servers = pytest.mark.parametrize(
    "server",
    [
        "sqlite",
        pytest.param("postgresql", marks=pytest.mark.gate),
        pytest.param("postgresql-schema", marks=pytest.mark.variant),
        pytest.param("mysql", marks=pytest.mark.gate),
    ],
    indirect=True,
)
pytestmark = pytest.mark.varies
ALEMBIC = Path(sys.executable).with_name("alembic")


def alembic(directory: Path, database: Database, *arguments: str) -> str:
    ours = {"DISPATCHER_DATABASE_URL": database.engine.url.render_as_string(hide_password=False)}
    if database.schema:
        ours["DISPATCHER_SCHEMA"] = database.schema
    others = {name: value for name, value in os.environ.items() if not name.startswith("DISPATCHER_")}
    done = subprocess.run(
        [ALEMBIC, *arguments],
        cwd=directory,
        env=others | ours,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@servers
def test_upgrade_from_the_checkout(bare_database: Database) -> None:
    alembic(ROOT, bare_database, "upgrade", "head")
    schema.check(bare_database)
    assert revisions.newest() in alembic(ROOT, bare_database, "current")
    assert "CREATE TABLE" in alembic(ROOT, bare_database, "upgrade", "head", "--sql")
    alembic(ROOT, bare_database, "downgrade", "base")
    assert revisions.newest() not in alembic(ROOT, bare_database, "current")
    migration.downgrade(bare_database)  # including the version table, which Alembic keeps


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the checkout to write revisions into."""
    shutil.copytree(ROOT / "migrations", tmp_path / "migrations", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "alembic.ini", tmp_path)
    return tmp_path


def test_revisions_are_known_by_the_names_of_their_files() -> None:
    scripts = ScriptDirectory.from_config(migration._config())
    assert {script.revision for script in scripts.walk_revisions()} == revisions.known()
    assert scripts.get_current_head() == revisions.newest()


@servers
def test_nobody_forgot_to_write_a_migration(database: Database) -> None:
    assert "No new upgrade operations detected" in alembic(ROOT, database, "check")


@servers
def test_the_next_revision_goes_up_and_down_on_data(database: Database, checkout: Path) -> None:
    alembic(checkout, database, "revision", "--rev-id", "0099", "-m", "a note for each delivery")
    (revision,) = (checkout / "migrations" / "versions").glob("0099*")
    step = revision.read_text()
    place = "schema=op.get_context().config.attributes['schema']" if database.schema else ""
    up = f"op.add_column('vercel_delivery', sa.Column('note', sa.String(9)), {place})"
    down = f"op.drop_column('vercel_delivery', 'note', {place})"
    revision.write_text(step.replace("pass", up, 1).replace("pass", down, 1))
    with database.engine.begin() as connection:
        write(connection, "db_1", "db_2")
    alembic(checkout, database, "upgrade", "head")
    # The old program continues during and after the migration.
    assert schema.check(database) == schema.Schema("0099")
    assert {*deliver(database)} == {"db_1", "db_2"}
    alembic(checkout, database, "downgrade", "-1")
    schema.check(database)
    assert count(database, delivery) == 0


@pytest.mark.parametrize(
    "revision", sorted((ROOT / "migrations" / "versions").glob("*.py")), ids=lambda path: path.stem
)
def test_a_revision_imports_nothing_of_the_program(revision: Path) -> None:
    """The program changes, and a revision must still make what it made when it was released."""
    imported = [
        alias.name if isinstance(node, ast.Import) else f"{'.' * node.level}{node.module or ''}"
        for node in ast.walk(ast.parse(revision.read_text()))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    ]
    assert "alembic" in imported
    assert [name for name in imported if name.partition(".")[0] in ("", "dispatcher", "migrations")] == []
