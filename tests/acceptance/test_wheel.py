"""The shipped wheel works in an empty directory, without a checkout or development dependencies."""

import json
import os
import re
import sqlite3
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from contextlib import closing
from pathlib import Path

import pytest

# In one process, which makes each environment once.
pytestmark = [pytest.mark.gate, pytest.mark.timeout(600), pytest.mark.xdist_group("wheel")]

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
from sqlalchemy.orm import Session

from dispatcher import ResourceUpdated, publish

with Session(sqlalchemy.create_engine("sqlite:///dispatcher.db")) as session, session.begin():
    publish(session, ResourceUpdated(installation_id="icfg_1", resource_id="db_1"))
"""

IMPORT_EVERYTHING = """
import dispatcher, importlib, pkgutil
for module in pkgutil.iter_modules(dispatcher.__path__):
    if module.name not in ("migrations", "pytest_plugin"):
        importlib.import_module(f"dispatcher.{module.name}")
"""
ANNOUNCE = """
import asyncio
import sqlalchemy
from fastapi import FastAPI
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

import dispatcher
from dispatcher import NoTransaction, ResourceUpdated, apublish, publish
from dispatcher.testing import announced

app = FastAPI()
event = ResourceUpdated(installation_id="icfg_1", resource_id="db_1")

@app.put("/databases")
def rename() -> None:
    with Session(engine) as session, session.begin():
        publish(session, event)
        assert announced(session) == [event]

async def rename_too(engine) -> None:
    async with AsyncSession(engine) as session, session.begin():
        await apublish(session, event)
    try:
        async with AsyncSession(engine.execution_options(isolation_level="AUTOCOMMIT")) as session:
            await apublish(session, event)
    except NoTransaction:
        print("refused")
    await engine.dispose()

engine = sqlalchemy.create_engine("sqlite:///own.db")
dispatcher.metadata.create_all(engine)
(route,) = [one for one in app.routes if one.path == "/databases"]
route.endpoint()
asyncio.run(rename_too(create_async_engine("sqlite+aiosqlite:///own.db")))
"""
# What an application of 2024 has, and what it publishes with: the oldest versions that we promise to work with.
APPLICATION = {
    "fastapi": "0.115.0",
    "uvicorn": "0.30.6",
    "sqlalchemy": "2.0.35",
    "pydantic": "2.5.0",
    "aiosqlite": "0.20.0",
}
PUBLISHING = {"pydantic", "sqlalchemy", "typing-extensions"}
THEIRS = {"annotated-types", "greenlet", "pydantic-core", "typing-inspection"}
"""What these need in turn."""
PRODUCT = "vercel-outbox-dispatcher"
UV = str(Path(sys.executable).with_name("uv"))


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory with the wheel and the source archive of this checkout."""
    directory = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "hatchling", "build", "--directory", str(directory), cwd=ROOT)
    return directory


@pytest.fixture(scope="module")
def wheel(archives: Path) -> str:
    return str(find_one(archives, "*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of commands in an environment with only the wheel and its locked dependencies."""
    commands = make_environment(tmp_path_factory)
    install(commands, "--require-hashes", "--requirement", str(ROOT / "requirements.txt"))
    install(commands, "--no-deps", "--no-index", wheel)
    return commands


@pytest.fixture(scope="module")
def application(wheel: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """The directory of commands of a partner's application with the wheel, and the versions that it had before."""
    commands = make_environment(tmp_path_factory)
    install(commands, *(f"{name}=={version}" for name, version in APPLICATION.items()))
    before = versions(commands)
    install(commands, wheel)
    return commands, before


def test_the_wheel_holds_the_package_its_types_and_its_migrations(archives: Path) -> None:
    with zipfile.ZipFile(find_one(archives, "*.whl")) as wheel:
        names = set(wheel.namelist())
    assert {"dispatcher/__init__.py", "dispatcher/py.typed", "dispatcher/migrations/env.py"} <= names
    console = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "dispatcher" / "console").glob("*/*")
        if path.suffix != ".pyc"
    }
    assert len(console) > 10
    assert console <= names
    assert any(re.fullmatch(r"dispatcher/migrations/versions/\w+\.py", name) for name in names)
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)
    assert {name.partition("/")[0] for name in names if ".dist-info/" not in name} == {"dispatcher"}
    assert not [name for name in names if "__pycache__" in name]


def test_the_wheel_requires_no_development_dependency(archives: Path) -> None:
    with zipfile.ZipFile(find_one(archives, "*.whl")) as wheel:
        metadata = wheel.read(next(name for name in wheel.namelist() if name.endswith("/METADATA"))).decode()
    required = {name.lower() for name in re.findall(r"(?m)^Requires-Dist: ([A-Za-z0-9-]+)", metadata)}
    always = re.findall(r"(?m)^Requires-Dist: ([a-z-]+)[^;\n]*$", metadata)
    assert set(always) == PUBLISHING
    assert re.findall(r"(?m)^Provides-Extra: (\w+)$", metadata) == ["mysql", "otel", "postgres", "service"]
    assert re.findall(r"(?m)^Project-URL: .*, https://vercel\.com/docs/\S+$", metadata)
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
    run(str(installed / "dispatcher"), "migrate", cwd=tmp_path, DISPATCHER_DATABASE_URL="sqlite:///dispatcher.db")
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
    run(str(installed / "python"), "-c", IMPORT_EVERYTHING, cwd=tmp_path)


def test_the_wheel_alone_brings_only_what_publishing_needs(
    wheel: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    commands = make_environment(tmp_path_factory)
    install(commands, wheel)
    assert {PRODUCT, *PUBLISHING} <= versions(commands).keys() <= {PRODUCT, *PUBLISHING, *THEIRS}


def test_an_application_with_older_packages_keeps_them_and_publishes(
    application: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    commands, before = application
    assert APPLICATION.items() <= before.items()
    after = versions(commands)
    assert after.pop(PRODUCT)
    assert after == before
    packages(commands, "check")
    assert run(str(commands / "python"), "-c", ANNOUNCE, cwd=tmp_path) == "refused\n"
    with closing(sqlite3.connect(tmp_path / "own.db")) as database:
        assert database.execute("SELECT resource_id FROM vercel_outbox").fetchall() == [("db_1",), ("db_1",)]


def test_the_promised_versions_are_the_ones_tested() -> None:
    dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    lowest = dict(re.findall(r"([\w-]+)>=([\d.]+)", " ".join(dependencies)))
    assert lowest.keys() == PUBLISHING
    for name in ("pydantic", "sqlalchemy"):
        assert APPLICATION[name] in {lowest[name], f"{lowest[name]}.0"}


@pytest.mark.parametrize("arguments", [("status",), ("run",), ("--help",), ()])
def test_a_command_without_its_extra_says_which_to_install(
    application: tuple[Path, dict[str, str]], tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    commands, _ = application
    for command in ([str(commands / "dispatcher")], [str(commands / "python"), "-m", "dispatcher"]):
        done = execute(*command, *arguments, cwd=tmp_path)
        assert done.returncode == 2
        assert done.stdout == ""
        assert re.fullmatch(
            r"dispatcher: the package \w+ is not installed: .* with its extra \[service\], .*\n", done.stderr
        )


def test_a_driver_without_its_extra_says_which_to_install(installed: Path, tmp_path: Path) -> None:
    """`installed` has both; so one is taken away from the interpreter."""
    hidden = "import sys; sys.modules['psycopg'] = None; from dispatcher.__main__ import main; main()"
    done = execute(
        str(installed / "python"),
        "-c",
        hidden,
        "migrate",
        cwd=tmp_path,
        DISPATCHER_DATABASE_URL="postgres://me@127.0.0.1:1/app",
    )
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "install the wheel with its extra [postgres]" in done.stderr


def make_environment(directories: pytest.TempPathFactory) -> Path:
    """Returns the directory of commands of a new virtual environment."""
    environment = directories.mktemp("environment") / "venv"
    run(UV, "venv", "--python", sys.executable, str(environment), cwd=environment.parent)
    return environment / "bin"


def install(commands: Path, *arguments: str) -> None:
    packages(commands, "install", *arguments)


def versions(commands: Path) -> dict[str, str]:
    """Returns the version of each package by its name."""
    return {one["name"]: one["version"] for one in json.loads(packages(commands, "list", "--format", "json"))}


def packages(commands: Path, *arguments: str) -> str:
    """Asks pip's faster twin, which shares its files among environments; returns its stdout."""
    return run(UV, "pip", *arguments, "--python", str(commands / "python"), cwd=commands)


def execute(*command: str, cwd: Path, **others: str) -> subprocess.CompletedProcess[str]:
    """Runs a command without any of this process's settings."""
    ours = ("DISPATCHER_", "PYTHON", "COV", "VIRTUAL_ENV")
    environ = {name: value for name, value in os.environ.items() if not name.startswith(ours)} | others
    return subprocess.run(command, cwd=cwd, env=environ, capture_output=True, text=True, check=False)


def run(*command: str, cwd: Path, **others: str) -> str:
    """Runs a command that must succeed; returns its stdout."""
    done = execute(*command, cwd=cwd, **others)
    assert done.returncode == 0, (
        f"{command[0]} {command[1:3]} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
    )
    return done.stdout


def find_one(directory: Path, pattern: str) -> Path:
    """Returns the only file that matches."""
    (path,) = directory.glob(pattern)
    return path
