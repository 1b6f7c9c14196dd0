"""The recipes, run as they stand: a partner's own migrations leave the dispatcher's tables alone, or create them."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from dispatcher.database import migration, schema
from dispatcher.database.transactions import Database, open_database
from dispatcher.outbox.tables import metadata

RECIPES = Path(__file__).parents[2] / "deploy" / "examples" / "recipes.md"
MODELS = """
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

class Base(DeclarativeBase):
    pass

class Database(Base):
    __tablename__ = "databases"
    id: Mapped[str] = mapped_column(primary_key=True)
"""


def recipes(heading: str, language: str) -> list[str]:
    """Returns the code blocks in this language below the heading."""
    _, found, text = RECIPES.read_text().partition(f"# {heading}\n")
    assert found, heading
    section = re.split(r"(?m)^#+ ", text)[0]
    return [str(block) for block in re.findall(rf"```{language}\n(.*?)```", section, re.DOTALL)]


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    """An SQLite file without tables."""
    opened = open_database(f"sqlite:///{tmp_path}/partner.db")
    yield opened
    opened.close()


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    """The partner's engine on the same file."""
    made = sa.create_engine(f"sqlite:///{tmp_path}/partner.db")
    yield made
    made.dispose()


def autogenerate(directory: Path, configure: str) -> str:
    """Creates Alembic's own environment with this configuration, and returns what autogenerate writes for the partner's models."""
    (directory / "models.py").write_text(MODELS)
    alembic(directory, "init", "migrations")
    config, env = directory / "alembic.ini", directory / "migrations" / "env.py"
    config.write_text(re.sub(r"(?m)^sqlalchemy.url = .*", "sqlalchemy.url = sqlite:///partner.db", config.read_text()))
    written = env.read_text().replace(
        "target_metadata = None", "from models import Base\ntarget_metadata = Base.metadata"
    )
    written, replaced = re.subn(
        r"context\.configure\(\s*connection=connection, .*?\)", configure, written, flags=re.DOTALL
    )
    assert replaced == 1
    env.write_text(written)
    alembic(directory, "revision", "--autogenerate", "-m", "next")
    (revision,) = (directory / "migrations" / "versions").glob("*.py")
    return revision.read_text()


def alembic(directory: Path, *arguments: str) -> None:
    command = [sys.executable, "-m", "alembic", *arguments]
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stderr


def test_alembics_autogenerate_leaves_the_tables_alone(database: Database, tmp_path: Path) -> None:
    migration.migrate(database)
    (lines,) = recipes("Alembic", "python")
    revision = autogenerate(tmp_path, "\n        ".join(lines.split("\n\n")).strip())
    assert "create_table('databases'" in revision
    assert "vercel_" not in revision


def test_without_the_recipe_it_would_drop_them(database: Database, tmp_path: Path) -> None:
    migration.migrate(database)
    revision = autogenerate(tmp_path, "context.configure(connection=connection, target_metadata=target_metadata)")
    assert "drop_table('vercel_outbox')" in revision


class Base(DeclarativeBase):
    """The base of the partner's tables."""


class Resource(Base):
    """A table of the partner's."""

    __tablename__ = "resources"
    id: Mapped[str] = mapped_column(primary_key=True)


def test_create_all_creates_the_tables(database: Database, engine: Engine) -> None:
    (lines,) = recipes("`create_all`", "python")
    exec(lines, {"Base": Base, "engine": engine})  # noqa: S102 (as the recipe stands)
    assert set(sa.inspect(engine).get_table_names()) == {"resources", *metadata.tables}
    schema.check(database)
    with pytest.raises(schema.UnusableSchema, match="were not created by `dispatcher migrate`"):
        migration.migrate(database)
