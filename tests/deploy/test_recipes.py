"""The commands of the recipes work on every database."""

import shlex
from pathlib import Path

import pytest
from sqlalchemy import Engine

from dispatcher.database.transactions import Database
from tests.cli.conftest import Terminal
from tests.contract.watched_table import Table
from tests.deploy.documents import commands

pytestmark = pytest.mark.gate
TRIGGERS = [words for words in commands("examples/recipes.md") if words[:2] == ["dispatcher", "trigger"]]
RESOURCES = "(id varchar(40), installation_id varchar(40), account_id int, product_id varchar(40), name varchar(40), status varchar(40))"


def test_every_command_makes_a_trigger() -> None:
    assert len(TRIGGERS) == len(commands("examples/recipes.md")) == 3


@pytest.mark.parametrize("words", TRIGGERS, ids=shlex.join)
def test_the_trigger_announces_changes(words: list[str], database: Database, partner: Engine, tmp_path: Path) -> None:
    resources, accounts = (Table(database, partner, name) for name in ("resources", "accounts"))
    url = database.engine.url
    if database.schema:  # as an application connects that has its tables there
        url = url.update_query_dict({"options": f"-c search_path={database.schema}"})
    settings = {"database_url": url.render_as_string(hide_password=False), "schema": database.schema or ""}
    terminal = Terminal(tmp_path, {name: value for name, value in settings.items() if value})
    try:
        resources(f"CREATE TABLE @T {RESOURCES}")
        accounts("CREATE TABLE @T (id int, installation_id varchar(40))")
        ended = terminal(*words[1:])
        assert (ended.code, ended.err) == (0, "")
        accounts("INSERT INTO @T VALUES (1, 'icfg_1')")
        resources("INSERT INTO @T VALUES ('db_1', 'icfg_1', 1, 'pg', 'a', 'new')")
        assert [one[0] for one in resources.events()] == ["icfg_1"]
        assert terminal(*words[1:]).out.endswith("was in place already\n")
    finally:
        resources.remove()
        accounts.remove()
