"""The console reads: no page that can be opened changes a row, and without `--write` there is no form that could."""

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from dispatcher.database.transactions import Database
from dispatcher.outbox.tables import outbox
from tests.console.conftest import Console, on_two_databases, rows
from tests.contract.databases import EVERY

POSTS = (
    "",
    "dead-letters",
    "dead-letters/1",
    "installations",
    "installations/icfg_1",
    "explain",
    "search",
    "name",
    "static/console.css",
    "nowhere",
)


@on_two_databases
async def test_opening_every_page_twice_changes_no_table(console: Console, trouble: Database) -> None:
    before = rows(trouble)
    for _ in range(2):
        pages = await console.crawl()
        assert len(pages) >= 10
        assert {page.status_code for page in pages.values()} == {200}
    await console.get("dead-letters?reason=gone&since=1h&show=all&limit=500")
    assert rows(trouble) == before


@pytest.mark.parametrize("path", POSTS)
async def test_no_form_is_taken_but_login_and_logout(console: Console, trouble: Database, path: str) -> None:
    before = rows(trouble)
    assert (await console.post(path, id="1")).status_code in {404, 405}
    assert rows(trouble) == before


@pytest.mark.parametrize("server", EVERY, indirect=True)
async def test_the_database_itself_refuses_what_the_console_would_write(console: Console, database: Database) -> None:
    row = sa.insert(outbox).values(installation_id="icfg_1", type="resource.updated", resource_id="db_1")
    with pytest.raises(DBAPIError, match=r"(?i)read.?only"):
        console.database.transact(lambda connection: connection.execute(row))
    assert rows(database)["vercel_outbox"] == []
