"""The guide to managed databases: its URLs are accepted and mean what it says, its statements run, its lists are the code's."""

import re
import sqlite3
from contextlib import closing

import pytest

from dispatcher.database.engine import dialect_of, open_engine
from dispatcher.database_url import mysql, postgresql
from dispatcher.database_url.address import read_address
from dispatcher.outbox.tables import outbox
from dispatcher.settings.settings import load_settings
from tests.deploy.documents import blocks, read, sections, table

GUIDE = "databases.md"
PROVIDERS = {
    *("RDS", "Aurora", "Cloud SQL", "Neon", "Supabase", "PlanetScale", "DigitalOcean", "Heroku", "Vercel", "Prisma"),
}
URLS = [
    *(line for block in blocks(GUIDE, "text") for line in block.splitlines()),
    *re.findall(r"`((?:postgres|postgresql|mysql)://[^`]{20,})`", read(GUIDE)),
]
NOT_VERIFIED = {"sslmode=require", "127.0.0.1", "a.example.com", "/cloudsql/"}


def test_each_provider_has_a_section() -> None:
    assert {section.title for section in sections(GUIDE)} >= PROVIDERS


@pytest.mark.parametrize("url", URLS)
def test_its_urls_are_accepted(url: str) -> None:
    settings = load_settings({"DISPATCHER_DATABASE_URL": url})
    assert settings.database.hosts or "/cloudsql/" in url
    open_engine(url).dispose()


@pytest.mark.parametrize("url", [url for url in URLS if not any(part in url for part in NOT_VERIFIED)])
def test_the_recommended_ones_verify_the_server(url: str) -> None:
    assert dialect_of(url).unverified_host(open_engine(url).url) is None


def test_each_row_of_tls_means_the_same() -> None:
    rows = re.findall(r"(?m)^\| (`ssl.*|no param.*) \| (.*) \| (.*) \|$", read(GUIDE))
    assert len(rows) == 6
    for theirs, ours, meaning in rows:
        written = [f"postgres://db.example.com/d?{one}" for one in re.findall(r"`(.*?)`", theirs)]
        written += [f"mysql://db.example.com/d?{one}" for one in re.findall(r"`(.*?)`", ours)]
        warned = {dialect_of(url).unverified_host(open_engine(url).url) is not None for url in written}
        assert warned == {"warns" in meaning or "clear text" in meaning}, meaning
        modes = {read_address(url).parameters.get("sslmode") for url in written if url.startswith("postgres")}
        assert len(modes) == 1, meaning


def test_the_parameters_without_effect_are_the_codes() -> None:
    rows = table(GUIDE, "Parameters without effect")
    for name, foreign in (("PostgreSQL", postgresql.FOREIGN), ("MySQL, MariaDB", mysql.FOREIGN)):
        assert set(re.findall(r"`(.*?)`", rows[name][0])) == foreign


def test_everything_can_be_announced_again() -> None:
    (statement,) = blocks(GUIDE, "sql")
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute("CREATE TABLE databases (id, installation_id)")
        connection.execute("INSERT INTO databases VALUES ('db_1', 'icfg_1'), ('db_2', 'icfg_1')")
        connection.execute(f"CREATE TABLE vercel_outbox ({', '.join(outbox.c.keys())})")
        connection.execute(statement)
        rows = connection.execute("SELECT installation_id, type, resource_id FROM vercel_outbox").fetchall()
    assert rows == [("icfg_1", "resource.updated", "db_1"), ("icfg_1", "resource.updated", "db_2")]


def test_the_procfile_hands_the_url_over() -> None:
    assert re.search(
        r'`dispatcher: DISPATCHER_DATABASE_URL="\$DATABASE_URL\?sslmode=require" dispatcher run`', read(GUIDE)
    )
