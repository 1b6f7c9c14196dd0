"""The shipped wheel works in an empty directory, without a checkout or development dependencies."""

import os
import re
import sqlite3
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

pytestmark = [pytest.mark.gate, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
TABLES = {
    "vercel_attempt",
    "vercel_dead_letter",
    "vercel_delivery",
    "vercel_dispatcher_version",
    "vercel_installation",
    "vercel_outbox",
}
PUBLISH = """
import sqlalchemy
from dispatcher import ResourceUpdated, publish

with sqlalchemy.create_engine("sqlite:///dispatcher.db").begin() as connection:
    publish(connection, ResourceUpdated(installation_id="icfg_1", resource_id="db_1"))
"""


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory with the wheel and the source archive of this checkout."""
    directory = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "hatchling", "build", "--directory", str(directory), cwd=ROOT)
    return directory


@pytest.fixture(scope="module")
def installed(archives: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of commands in an environment with only the wheel and its locked dependencies."""
    environment = tmp_path_factory.mktemp("clean") / "venv"
    run(sys.executable, "-m", "venv", str(environment), cwd=environment.parent)
    install = (str(environment / "bin" / "python"), "-m", "pip", "install", "--quiet")
    run(*install, "--require-hashes", "--requirement", str(ROOT / "requirements.txt"), cwd=environment.parent)
    run(*install, "--no-deps", "--no-index", str(find_one(archives, "*.whl")), cwd=environment.parent)
    return environment / "bin"


def test_the_wheel_holds_the_package_its_types_and_its_migrations(archives: Path) -> None:
    with zipfile.ZipFile(find_one(archives, "*.whl")) as wheel:
        names = set(wheel.namelist())
    assert {"dispatcher/__init__.py", "dispatcher/py.typed", "dispatcher/migrations/env.py"} <= names
    assert any(re.fullmatch(r"dispatcher/migrations/versions/\w+\.py", name) for name in names)
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)
    assert {name.partition("/")[0] for name in names if ".dist-info/" not in name} == {"dispatcher"}
    assert not [name for name in names if "__pycache__" in name]


def test_the_wheel_requires_no_development_dependency(archives: Path) -> None:
    with zipfile.ZipFile(find_one(archives, "*.whl")) as wheel:
        metadata = wheel.read(next(name for name in wheel.namelist() if name.endswith("/METADATA"))).decode()
    required = {name.lower() for name in re.findall(r"(?m)^Requires-Dist: ([A-Za-z0-9-]+)", metadata)}
    assert {"sqlalchemy", "alembic", "psycopg", "pymysql"} <= required
    assert not required & {"pytest", "hypothesis", "mypy", "ruff", "import-linter", "uv"}
    assert "Requires-Python: >=3.11" in metadata


def test_the_wheel_offers_its_plugin_to_pytest(archives: Path) -> None:
    with zipfile.ZipFile(find_one(archives, "*.whl")) as wheel:
        offered = wheel.read(next(name for name in wheel.namelist() if name.endswith("/entry_points.txt"))).decode()
    assert "[pytest11]\nvercel_outbox = dispatcher.pytest_plugin" in offered


def test_the_source_archive_holds_the_sources_and_no_generated_files(archives: Path) -> None:
    with tarfile.open(find_one(archives, "*.tar.gz")) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"pyproject.toml", "LICENSE", "README.md", "Makefile", "requirements.txt", "migrations/env.py"} <= names
    assert not [name for name in names if re.search(r"__pycache__|\.venv|\.db$|\.coverage", name)]


def test_the_installed_wheel_migrates_and_publishes_in_an_empty_directory(installed: Path, tmp_path: Path) -> None:
    assert "migrate" in run(str(installed / "dispatcher"), "--help", cwd=tmp_path)
    run(str(installed / "dispatcher"), "migrate", cwd=tmp_path)
    run(str(installed / "python"), "-c", PUBLISH, cwd=tmp_path)
    with sqlite3.connect(tmp_path / "dispatcher.db") as database:
        tables = {name for (name,) in database.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
        events = database.execute("SELECT installation_id, type, resource_id FROM vercel_outbox").fetchall()
    database.close()
    assert tables >= TABLES
    assert events == [("icfg_1", "resource.updated", "db_1")]


def test_the_installed_wheel_needs_none_of_our_tools(installed: Path, tmp_path: Path) -> None:
    assert "The law held" in run(str(installed / "dispatcher"), "demo", cwd=tmp_path, TMPDIR=str(tmp_path))
    question = (
        "import importlib.util as u; print([m for m in ('pytest', 'hypothesis', 'mypy', 'uv') if u.find_spec(m)])"
    )
    assert run(str(installed / "python"), "-c", question, cwd=tmp_path).strip() == "[]"
    modules = "import dispatcher, pkgutil; print(*[m.name for m in pkgutil.iter_modules(dispatcher.__path__)])"
    for module in run(str(installed / "python"), "-c", modules, cwd=tmp_path).split():
        if module not in {"migrations", "pytest_plugin"}:
            run(str(installed / "python"), "-c", f"import dispatcher.{module}", cwd=tmp_path)


def run(*command: str, cwd: Path, **others: str) -> str:
    """Runs a command without any of this process's settings; returns its stdout."""
    ours = ("DISPATCHER_", "PYTHON", "COV", "VIRTUAL_ENV")
    environ = {name: value for name, value in os.environ.items() if not name.startswith(ours)} | others
    done = subprocess.run(command, cwd=cwd, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (
        f"{command[0]} {command[1:3]} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
    )
    return done.stdout


def find_one(directory: Path, pattern: str) -> Path:
    """Returns the only file that matches."""
    (path,) = directory.glob(pattern)
    return path
