"""Consoles as real servers on a port, in the test's own event loop; on SQLite, unless the test names other databases. Seeded databases."""

import re
import secrets
import shutil
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import httpx
import pytest
import sqlalchemy as sa
from pydantic import SecretStr

from dispatcher.console.access import TokenAccess, choose_access
from dispatcher.console.app import console_app
from dispatcher.console.operations import Operations
from dispatcher.console.reading import open_for_reading
from dispatcher.console.server import SERVER_OPTIONS
from dispatcher.console.writing import open_for_writing
from dispatcher.database.transactions import Database, open_database
from dispatcher.outbox.tables import attempt, dead_letter, dispatcher, installation, metadata, outbox
from dispatcher.service.http_server import serving
from dispatcher.settings.settings import Settings
from tests.console import seeds
from tests.tables import create_tables

OPERATOR = "root@here"
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""Each client would load the machine's certificates."""
HOSTILE = "<script>alert(1)</script>'\"&\u202egpj\x1b[2J" + "x" * 2_000
"""An error text that wants to be more than text."""

WAY_BACK = re.compile(r"[?&]from=[^&]*")

on_two_databases = pytest.mark.parametrize("server", ["sqlite", "postgresql"], indirect=True)


@pytest.fixture
def server(request: pytest.FixtureRequest) -> str:
    """The name of the database under test."""
    return str(getattr(request, "param", "sqlite"))


@dataclass(frozen=True)
class Console:
    """A running console, and somebody who looks at it and follows its redirects."""

    url: str
    """With a slash at its end."""
    token: str
    database: Database
    browser: httpx.AsyncClient

    def at(self, path: str) -> str:
        """The absolute URL of a page."""
        return urljoin(self.url, path)

    @property
    def origin(self) -> dict[str, str]:
        """The header that a browser adds to the forms of the console's own pages."""
        return {"origin": self.url.rstrip("/")}

    async def log_in(self, next_: str = "") -> httpx.Response:
        """Opens the link that the command prints; returns the page that it leads to."""
        return await self.browser.get(self.at(f"login?token={self.token}&next={next_}"))

    async def get(self, path: str, **headers: str) -> httpx.Response:
        """Opens a page."""
        return await self.browser.get(self.at(path), headers={k.replace("_", "-"): v for k, v in headers.items()})

    async def post(self, path: str, **fields: str) -> httpx.Response:
        """Sends a form of the console's own pages."""
        return await self.browser.post(self.at(path), data=fields, headers=self.origin)

    async def crawl(self) -> dict[str, httpx.Response]:
        """Opens every page that can be reached by links, once for all its ways back; returns the answers by their URL."""
        seen: dict[str, httpx.Response] = {}
        wanted = [self.url]
        while wanted:
            link = wanted.pop()
            url = WAY_BACK.sub("", link)
            if url in seen or not url.startswith(self.url):
                continue
            seen[url] = answer = await self.browser.get(link)
            if answer.headers["content-type"].startswith("text/html"):
                wanted += [urljoin(str(answer.url), link.replace("&amp;", "&")) for link in links(answer.text)]
        return seen


Start = Callable[..., Awaitable[Console]]


def links(html: str) -> list[str]:
    """The addresses that a page links to or loads."""
    return [link.partition("#")[0] for link in re.findall(r'(?:href|src)="([^"]*)"', html)]


def words(html: str) -> str:
    """The text of a page."""
    return " ".join(re.sub(r"<[^>]+>", " ", html).split())


@pytest.fixture
async def start(database: Database) -> AsyncIterator[Start]:
    """Starts consoles, which end with the test: `console = await start(console_label="staging")`."""
    async with AsyncExitStack() as stack:

        async def start_one(*, may_write: bool = False, opened: Database | None = None, **settings: Any) -> Console:
            served = opened or database
            url = SecretStr(served.engine.url.render_as_string(hide_password=False))
            given = Settings(database_url=url, database_schema=served.schema, **settings)
            if opened is None:
                opened = open_for_reading(given)
                stack.callback(opened.close)
            token = secrets.token_urlsafe(32)
            access = choose_access(given, token, may_write=may_write)
            operations = None
            if may_write:
                operations = Operations(open_for_writing(given))
                stack.callback(operations.close)
            app = console_app(given, opened, access, OPERATOR, operations)
            port = await stack.enter_async_context(serving(app, "127.0.0.1", 0, **SERVER_OPTIONS))
            browser = httpx.AsyncClient(verify=NO_TLS, trust_env=False, follow_redirects=True, timeout=60)
            console = Console(f"http://127.0.0.1:{port}/", token, opened, await stack.enter_async_context(browser))
            if isinstance(access, TokenAccess) and given.console_prefix is None:
                await browser.get(console.at(f"login?token={token}"), follow_redirects=False)
            return console

        yield start_one


@pytest.fixture
async def console(start: Start) -> Console:
    """A read-only console, and somebody who has logged in."""
    return await start()


@pytest.fixture
def trouble(database: Database) -> Database:
    """The database with something of each kind on *Now*: dead letters, a pause, failures, requests, a dispatcher, an old event."""
    now = database.now()
    with database.engine.begin() as connection:
        write = connection.execute
        for reason, status, resource, error in (
            ("rejected", 400, "db_1", "unknown product"),
            ("rejected", 422, "db_2", HOSTILE),
            ("gone", 404, "db_3", "resource not found"),
        ):
            died = {"died_at": now, "reason": reason, "last_status": status, "resource_id": resource}
            write(
                sa.insert(dead_letter).values(
                    **died, **_subject(resource), last_error=error, attempts=2, **_events(now)
                )
            )
        write(
            sa.insert(dead_letter).values(
                died_at=now, reason="malformed", attempts=0, **_events(now), resolved_at=now, resolution="discarded",
                resolved_by="anna", note="<b>typo</b>",
            )
        )  # fmt: skip
        for outcome, code in (("delivered", 200), ("failed", 502)):
            made = {"at": now, "outcome": outcome, "status": code, "decision": "retry", "attempt": 1, "duration_ms": 88}
            write(
                sa.insert(attempt).values(**made, **_subject("db_1"), resource_id="db_1", error=HOSTILE, **_events(now))
            )
        due = {"due_at": now, "failures": 7}
        write(sa.insert(installation).values(installation_id="icfg_1", **due))
        pause = {"pause_reason": "unauthorized", "paused_since": now, "paused_until": now}
        write(sa.insert(installation).values(installation_id="icfg_2", due_at=now, failures=0, **pause))
        write(sa.insert(outbox).values(installation_id="icfg_1", type="resource.updated", resource_id="db_9"))
        write(sa.insert(dispatcher).values(name="web-1", version="1.2.3", started_at=now, seen_at=now, in_flight=3))
    return database


def _subject(resource: str) -> dict[str, object]:
    return {"subject_key": f"key of {resource}", "installation_id": "icfg_1", "type": "resource.updated"}


def _events(now: object) -> dict[str, object]:
    return {"events": 3, "first_event_id": 1, "last_event_id": 3, "first_created_at": now}


def rows(database: Database) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of every table."""
    with database.engine.connect() as connection:
        return {
            table.name: sorted((tuple(row) for row in connection.execute(sa.select(table))), key=repr)
            for table in metadata.sorted_tables
        }


@pytest.fixture(scope="session")
def seeded(tmp_path_factory: pytest.TempPathFactory) -> Callable[[seeds.Seed], Path]:
    """Returns the SQLite file with this seed, which is sown once for all tests."""
    directory = tmp_path_factory.mktemp("seeded")

    def sow(seed: seeds.Seed) -> Path:
        path = directory / f"{seed.__name__}.db"
        if not path.exists():
            database = open_database(f"sqlite:///{path}")
            create_tables(database)
            seed(database)
            database.close()
        return path

    return sow


@pytest.fixture
def sow(seeded: Callable[[seeds.Seed], Path], tmp_path: Path) -> Iterator[Callable[[seeds.Seed], Database]]:
    """Returns a database of the test's own with this seed: `sow(troubled)`."""
    opened: list[Database] = []

    def copy(seed: seeds.Seed) -> Database:
        path = tmp_path / "dispatcher.db"
        shutil.copy(seeded(seed), path)
        opened.append(open_database(f"sqlite:///{path}"))
        seeds.refresh(opened[-1])
        return opened[-1]

    yield copy
    for database in opened:
        database.close()
