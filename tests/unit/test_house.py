"""The house: each package says what it is for, and what changes rows lies in one of them."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = sorted(path.parent for path in (ROOT / "dispatcher").glob("*/__init__.py"))
CHANGES = {"insert", "update", "delete", "upsert"}


def test_the_table_in_architecture_says_what_the_packages_say() -> None:
    journey = re.findall(r"^\| `(\w+)/` \| (.*) \|$", (ROOT / "ARCHITECTURE.md").read_text(), re.MULTILINE)
    assert dict(journey) == {package.name: sentence(package / "__init__.py") for package in PACKAGES}


def sentence(module: Path) -> str:
    """The first paragraph of its docstring, on one line."""
    return " ".join((ast.get_docstring(ast.parse(module.read_text())) or "").split("\n\n")[0].split())


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: str(package.name))
def test_rows_change_in_the_store_only(package: Path) -> None:
    """`database/` builds such statements for any table; it names none of ours."""
    changing = {path.name for path in package.rglob("*.py") if any(changes_of(path))}
    assert bool(changing) == (package.name in {"store", "outbox"}), changing


def changes_of(module: Path) -> Iterator[str]:
    """Each INSERT, UPDATE or DELETE of one of our tables."""
    tree = ast.parse(module.read_text())
    tables = {alias.name for node in ast.walk(tree) for alias in imported_tables(node)}
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in CHANGES
            and node.args
        ):
            changed = node.args[0]
            if isinstance(changed, ast.Name) and (changed.id in tables or module.stem == "tables"):
                yield f"{node.func.attr} {changed.id}"


def imported_tables(node: ast.AST) -> list[ast.alias]:
    """What the statement imports from the tables' module."""
    is_theirs = isinstance(node, ast.ImportFrom) and node.module == "dispatcher.outbox.tables"
    return node.names if isinstance(node, ast.ImportFrom) and is_theirs else []
