"""The blocks of *Now* beside the status: shared by all browsers, and each may fail alone. What takes too long says so."""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from types import ModuleType
from typing import Any

import pytest

from dispatcher.console import app, dead_letters, minutes, now, reading, requests
from dispatcher.console.reading import SHARED_SECONDS, TOO_SLOW, Reader
from dispatcher.console.shared import Block, Shared
from dispatcher.database.schema import UnusableSchema
from dispatcher.database.transactions import Database, open_database
from tests.console.conftest import Start, words

ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i FROM n) SELECT count(*) FROM n"


class Question:
    """Counts how often it is asked, and fails on demand."""

    def __init__(self) -> None:
        self.now = 0.0
        self.asked = 0
        self.failure: Exception | None = None

    def __call__(self, _: Database) -> int:
        self.asked += 1
        if self.failure is not None:
            raise self.failure
        return self.asked


async def test_a_question_is_asked_once_in_two_seconds_and_a_failure_keeps_the_last_answer(database: Database) -> None:
    question = Question()
    shared = Shared(Reader(database, logs_successes=True), question, clock=lambda: question.now)
    assert shared.last == Block(None, "not read yet")
    assert await asyncio.gather(*(shared.read() for _ in range(10))) == [Block(1, None)] * 10
    question.now, question.failure = SHARED_SECONDS, UnusableSchema("run `dispatcher migrate`")
    for _ in range(2):
        assert await shared.read() == shared.last == Block(1, "run `dispatcher migrate`")
    assert question.asked == 2
    question.now, question.failure = 2 * SHARED_SECONDS, None
    assert await shared.read() == Block(3, None)


async def test_ten_browsers_cost_one_reading_in_two_seconds_and_get_nothing_without_news(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = 0.0
    read: dict[str, int] = {}

    def counted(question: Callable[..., Any]) -> Callable[..., Any]:
        def ask(*given: Any, **named: Any) -> Any:
            read[question.__name__] = read.get(question.__name__, 0) + 1
            return question(*given, **named)

        return ask

    monkeypatch.setattr(app, "Reader", partial(Reader, clock=lambda: seconds))
    monkeypatch.setattr(now, "Shared", partial(Shared, clock=lambda: seconds))
    for module, question in ((reading, "read_status"), (now, "causes"), (minutes, "outcomes_by_minute")):
        monkeypatch.setattr(module, question, counted(getattr(module, question)))
    console = await start()
    tags = dict.fromkeys(range(10), "")
    statuses = Counter[int]()
    for poll in range(120):  # each browser every five seconds, one after another
        seconds, browser = poll / 2, poll % 10
        page = await console.get("", if_none_match=tags[browser])
        tags[browser] = page.headers["etag"]
        statuses[page.status_code] += 1
    assert read == {"read_status": 30, "causes": 30, "outcomes_by_minute": 30}
    assert statuses == {200: 10, 304: 110}


@pytest.fixture
def hurried(trouble: Database) -> Iterator[Database]:
    """The database, with a limit of one second for each statement."""
    url = trouble.engine.url.render_as_string(hide_password=False)
    opened = open_database(url, statement_seconds=1, read_only=True)
    yield opened
    opened.close()


def endless(database: Database, *_: object) -> None:
    with database.read() as connection:
        connection.exec_driver_sql(ENDLESS)


async def test_a_block_that_takes_too_long_leaves_the_others_alone(
    start: Start, hurried: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(now, "causes", endless)
    page = await (await start(opened=hurried)).get("")
    assert page.status_code == 200
    text = words(page.text)
    assert f"unresolved, by cause {TOO_SLOW[0].upper()}{TOO_SLOW[1:]}." in text
    assert "1 thing needs you" in text
    assert "As a table" in text


@pytest.mark.parametrize(
    ("path", "module", "question"),
    [
        ("dead-letters?resource=db_1", dead_letters, "causes"),
        ("dead-letters?resource=db_1&view=list", dead_letters, "list_dead_letters"),
        ("requests?resource=db_1", requests, "group_requests"),
    ],
)
async def test_a_list_that_takes_too_long_keeps_its_filter(
    start: Start, hurried: Database, monkeypatch: pytest.MonkeyPatch, path: str, module: ModuleType, question: str
) -> None:
    monkeypatch.setattr(module, question, lambda database, *_, **__: endless(database))
    page = await (await start(opened=hurried)).get(path)
    assert page.status_code == 503
    assert f"{TOO_SLOW[0].upper()}{TOO_SLOW[1:]}." in words(page.text)
    assert 'name="resource" value="db_1"' in page.text
