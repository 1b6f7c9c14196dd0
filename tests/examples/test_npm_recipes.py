"""The recipes for Drizzle and Prisma, run as they stand: the event is written, and their tools leave the dispatcher's tables alone."""

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dispatcher.database import migration, schema
from dispatcher.database.transactions import Database, open_database
from dispatcher.outbox.tables import VERSION_TABLE, metadata
from tests.conftest import not_tested
from tests.examples.test_examples import events, names, seed
from tests.examples.test_recipes import recipes

PACKAGES = Path(__file__).parent / "npm"
INSTALL_SECONDS = 300
PARTNERS = "DROP TABLE IF EXISTS databases, _prisma_migrations"

pytestmark = [pytest.mark.gate, pytest.mark.timeout(2 * INSTALL_SECONDS)]


@pytest.fixture
def database(postgresql_url: str) -> Iterator[Database]:
    """A PostgreSQL with the dispatcher's tables and none of the partner's."""
    opened = open_database(postgresql_url)
    with opened.engine.begin() as connection:
        connection.exec_driver_sql(PARTNERS)
    migration.migrate(opened)
    migration.downgrade(opened)
    migration.migrate(opened)
    yield opened
    migration.downgrade(opened)
    with opened.engine.begin() as connection:
        connection.exec_driver_sql(PARTNERS)
    opened.close()


Run = Callable[..., None]


@pytest.fixture
def run(database: Database, tmp_path: Path) -> Run:
    """Runs a command in the directory of the packages, and on the database."""
    url = database.engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
    environ = {**os.environ, "DATABASE_URL": url, "PRISMA_HIDE_UPDATE_MESSAGE": "1", "CHECKPOINT_DISABLE": "1"}

    def run_command(*command: str, seconds: int = 120) -> None:
        done = subprocess.run(
            command, cwd=tmp_path, env=environ, capture_output=True, text=True, check=False, timeout=seconds
        )
        assert done.returncode == 0, done.stdout + done.stderr

    return run_command


def install(packages: str, directory: Path, run: Run) -> None:
    missing = [command for command in ("node", "npm") if shutil.which(command) is None]
    if missing:
        not_tested(f"install {' and '.join(missing)} to run the recipes for Drizzle and Prisma")
    for name in ("package.json", "package-lock.json"):
        shutil.copy(PACKAGES / packages / name, directory)
    run("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", seconds=INSTALL_SECONDS)


DRIZZLE_SCHEMA = """
import { pgTable, text } from "drizzle-orm/pg-core";

export const databases = pgTable("databases", {
  id: text("id").primaryKey(),
  installationId: text("installation_id").notNull(),
  name: text("name").notNull(),
});
"""
DRIZZLE_APPLICATION = """
import { eq } from "drizzle-orm";
import { drizzle } from "drizzle-orm/node-postgres";
import { vercelOutbox } from "./outbox";
import { databases } from "./schema";

const db = drizzle(process.env.DATABASE_URL!);
const [id, name] = ["db_1", "second"];
"""


def test_drizzle(database: Database, tmp_path: Path, run: Run) -> None:
    install("drizzle", tmp_path, run)
    outbox, transaction, config = recipes("Drizzle", "ts")
    application = f"{DRIZZLE_APPLICATION}{transaction}await db.$client.end();\n"
    for name, text in {
        "schema.ts": DRIZZLE_SCHEMA,
        "outbox.ts": outbox,
        "drizzle.config.ts": config,
        "application.ts": application,
    }.items():
        (tmp_path / name).write_text(text)
    run("npx", "drizzle-kit", "push", "--force")
    schema.check(database)
    assert schema.missing_columns(database) == []
    seed(database)
    run("npx", "tsx", "application.ts")
    assert (names(database), events(database)) == (["second"], [("icfg_1", "resource.updated", "db_1")])


PRISMA_SCHEMA = """
generator client {
  provider   = "prisma-client-js"
  engineType = "client"
}

datasource db {
  provider = "postgresql"
  url      = env("DATABASE_URL")
}

model Database {
  id             String @id
  installationId String @map("installation_id")
  name           String

  @@map("databases")
}
"""
# Prisma's default engine is no npm package, and this one cannot read a PostgreSQL, so `prisma db push` is not tried here.
PRISMA_SETTINGS = """
  schema: "./schema.prisma",
  engine: "js",
  adapter: async () => new (await import("@prisma/adapter-pg")).PrismaPg({ connectionString: process.env.DATABASE_URL }),
"""
PRISMA_APPLICATION = """
import { PrismaPg } from "@prisma/adapter-pg";
import { PrismaClient } from "@prisma/client";

const prisma = new PrismaClient({ adapter: new PrismaPg({ connectionString: process.env.DATABASE_URL }) });
const [id, name] = ["db_1", "second"];
"""


def test_prismas_client_writes_the_event_and_its_tool_takes_the_configuration(
    database: Database, tmp_path: Path, run: Run
) -> None:
    install("prisma", tmp_path, run)
    transaction, config = recipes("Prisma", "ts")
    own = config.replace("  // … your own settings, and:\n", PRISMA_SETTINGS)
    for name, text in {
        "schema.prisma": PRISMA_SCHEMA,
        "prisma.config.ts": own.replace("externalTables: true", "externalTables: true, adapter: true"),
        "application.mjs": f"{PRISMA_APPLICATION}{transaction}await prisma.$disconnect();\n",
    }.items():
        (tmp_path / name).write_text(text)
    external = set(re.findall(r'"public\.(\w+)"', config))
    assert external == {*metadata.tables, VERSION_TABLE}
    run("npx", "prisma", "generate")
    with database.engine.begin() as connection:
        connection.exec_driver_sql(
            "CREATE TABLE databases (id text PRIMARY KEY, installation_id text NOT NULL, name text NOT NULL)"
        )
    seed(database)
    run("node", "application.mjs")
    assert (names(database), events(database)) == (["second"], [("icfg_1", "resource.updated", "db_1")])
