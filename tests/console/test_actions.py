"""Actions: a plan that changes nothing, a form that does exactly what the plan has shown, and the operation that it starts."""

import asyncio
import re
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from html import escape, unescape
from threading import Event, Thread
from urllib.parse import urlencode

import httpx
import pytest
import sqlalchemy as sa
from starlette.datastructures import QueryParams
from structlog.testing import capture_logs

from dispatcher.console import plan_tokens
from dispatcher.console.access import Visitor
from dispatcher.console.dead_letter_filter import MAX_ID, Wanted
from dispatcher.console.operations import MAX_AT_ONCE, Change, Operation, Operations, State, Work
from dispatcher.console.plan_tokens import PLAN_SECONDS, PlanTokens, Promise
from dispatcher.database.transactions import Database, open_database
from dispatcher.inspection.aftermath import aftermath
from dispatcher.inspection.dead_letters import list_dead_letters
from dispatcher.outbox.tables import dead_letter, installation, outbox
from dispatcher.policy.decision import DeadLetterReason
from dispatcher.store.dead_letters import Filter, Signature, replay
from dispatcher.store.records import Progress
from tests.console.conftest import HOSTILE, NO_TLS, OPERATOR, Console, Start, rows, words
from tests.console.test_pages import Away, commands_of

on_databases = pytest.mark.parametrize("server", ["sqlite", "postgresql", "mysql"], indirect=True)
on_postgresql = pytest.mark.parametrize("server", ["postgresql"], indirect=True)
REPLAY = "actions/replay?reason=rejected"
WHY = "the product exists now"
SIGNATURE = Signature("anna", WHY)
ACTIONS = (
    REPLAY,
    "actions/discard?reason=gone",
    "actions/pause?installation=icfg_1",
    "actions/resume?installation=icfg_2",
    "actions/purge?installation=icfg_1",
)


@pytest.fixture
async def console(start: Start) -> Console:
    """A console with actions, and somebody who has logged in."""
    return await start(may_write=True)


def plan_of(page: httpx.Response) -> str:
    """The token of the form on a plan page."""
    (token,) = re.findall(r'name="plan" value="([^"]+)"', page.text)
    return str(token)


def form_of(page: httpx.Response) -> str:
    """Where the form on a plan page leads."""
    (path,) = re.findall(r'action="\.\./(actions/[^"]+)"', page.text)
    return unescape(path)


async def act(console: Console, path: str, **fields: str) -> httpx.Response:
    """Opens the plan, and sends its form; returns the page to which that leads."""
    plan = await console.get(path)
    assert plan.status_code == 200, words(plan.text)
    return await console.post(form_of(plan), plan=plan_of(plan), **fields)


async def ended(console: Console, page: httpx.Response) -> str:
    """Waits for the end of the operation; returns the words of its page."""
    assert page.status_code == 200, words(page.text)
    assert "/operations/" in str(page.url)
    while "Stop after this chunk" in page.text:
        await asyncio.sleep(0.05)
        page = await console.browser.get(page.url)
    return words(page.text)


def resolved(database: Database) -> list[tuple[str | None, str | None, str | None]]:
    """The resolution of each dead letter, oldest first, with who and why."""
    columns = dead_letter.c
    query = sa.select(columns.resolution, columns.resolved_by, columns.note).order_by(columns.id)
    with database.read() as connection:
        return [tuple(row) for row in connection.execute(query)]


def copy_letters(database: Database, number: int, reason: str = "gone") -> None:
    """Adds dead letters of this reason, each of a resource of its own."""
    now = database.now()
    letters = [
        {
            "died_at": now,
            "reason": reason,
            "subject_key": f"copy {n}",
            "installation_id": "icfg_1",
            "type": "resource.updated",
            "resource_id": f"copy_{n}",
            "events": 1,
            "first_event_id": n,
            "last_event_id": n,
            "first_created_at": now,
            "attempts": 1,
        }
        for n in range(number)
    ]
    with database.engine.begin() as connection:
        for first in range(0, number, 1_000):
            connection.execute(sa.insert(dead_letter), letters[first : first + 1_000])


# ── plans


@on_databases
async def test_a_replay_shows_its_plan_and_then_does_exactly_that(console: Console, trouble: Database) -> None:
    plan = await console.get(REPLAY)
    text = words(plan.text)
    for part in (
        "Replay 2 dead letters?",
        "This is a plan, good for ten minutes: nothing has been changed yet. Selected by --reason rejected .",
        f"It is signed with your name, {OPERATOR}.",
        "Requests 2",
        "Busiest installation 2",
        "unknown product",
    ):
        assert part in text, part
    assert commands_of(plan.text)[-1] == "dispatcher dead-letters replay --reason rejected"
    with capture_logs() as logs:
        text = await ended(console, await act(console, REPLAY, note=WHY))
    assert f"Replay 2 dead letters done By {OPERATOR}" in text
    assert f"“ {WHY} ”" in text
    assert "2 of 2" in text
    replayed = ("replayed", OPERATOR, WHY)
    assert resolved(trouble) == [replayed, replayed, (None, None, None), ("discarded", "anna", "<b>typo</b>")]
    told = {"action": "replay", "by": OPERATOR, "note": WHY, "filter": "--reason rejected", "dead_letters": 2}
    line = {**told, "event": "operator action", "log_level": "info", "operation": 1}
    assert logs == [line | {"state": "waiting"}, line | {"state": "done", "done": 2}]


async def test_the_operation_says_what_became_of_it(console: Console, trouble: Database) -> None:
    page = await act(console, REPLAY, note=WHY)
    text = await ended(console, page)
    assert "What became of it Delivered 0 resources or installations Waiting 2" in text
    with trouble.engine.begin() as connection:
        connection.execute(sa.delete(outbox).where(outbox.c.resource_id.in_(["db_1", "db_2"])))
        columns = [column for column in dead_letter.c if column.name not in {"id", "resolved_at", "resolution"}]
        again = sa.select(*columns).where(dead_letter.c.resource_id == "db_2")
        connection.execute(sa.insert(dead_letter).from_select([column.name for column in columns], again))
        connection.execute(
            sa.update(dead_letter).values(died_at=trouble.now()).where(dead_letter.c.resolution.is_(None))
        )
    html = (await console.browser.get(page.url)).text
    assert "Delivered 1 resources or installations Waiting 0 to be sent Died again 1 new dead letters" in words(html)
    assert 'href="../dead-letters/5">5</a>' in html
    assert re.fullmatch(
        rf"dispatcher dead-letters aftermath --since \S+ --until \S+ --by {OPERATOR}", commands_of(html)[-1]
    )


@on_databases
async def test_a_plan_is_for_the_letters_that_it_has_counted(console: Console, trouble: Database) -> None:
    plan = await console.get("actions/discard?reason=gone&since=1h")
    copy_letters(trouble, 1)
    await ended(console, await console.post(form_of(plan), plan=plan_of(plan), note="deleted"))
    assert [letter.resource_id for letter in list_dead_letters(trouble, Filter(), 9)] == ["copy_0", "db_2", "db_1"]


async def test_one_that_died_with_an_earlier_id_is_reported(console: Console, trouble: Database) -> None:
    """Ids are given before the commit: a lower one can appear later."""
    with trouble.engine.begin() as connection:
        connection.execute(sa.update(dead_letter).where(dead_letter.c.resource_id == "db_2").values(id=100))
    plan = await console.get(REPLAY)
    copy_letters(trouble, 1, "rejected")
    before = rows(trouble)
    with trouble.engine.begin() as connection:
        connection.execute(sa.update(dead_letter).where(dead_letter.c.resource_id == "copy_0").values(id=50))
    page = await console.post(form_of(plan), plan=plan_of(plan), note=WHY)
    assert page.status_code == 409
    assert "Nothing was changed: 1 more have died meanwhile, which makes 3." in words(page.text)
    assert [row[0] for row in rows(trouble)["vercel_outbox"]] == [row[0] for row in before["vercel_outbox"]]


async def test_a_plan_that_is_no_longer_true_says_so_and_offers_another(console: Console, trouble: Database) -> None:
    plan = await console.get(REPLAY)
    await ended(console, await act(console, "actions/discard?resource=db_1", note="deleted"))
    page = await console.post(form_of(plan), plan=plan_of(plan), note=WHY)
    assert page.status_code == 409
    assert "Nothing was changed: 1 of 2 were resolved meanwhile, which leaves 1." in words(page.text)
    await ended(console, await console.post(form_of(page), plan=plan_of(page), note=WHY))
    again = await console.post(form_of(page), plan=plan_of(page), note=WHY)
    assert again.status_code == 409
    assert "Everything that the plan has shown was resolved meanwhile." in words(again.text)
    assert [one[0] for one in resolved(trouble)] == ["discarded", "replayed", None, "discarded"]


@pytest.mark.parametrize(
    ("path", "taken"),
    [
        ("actions/replay?oldest=1", ["db_1"]),
        ("actions/replay?oldest=10", ["db_1", "db_2", "db_3"]),
        ("actions/replay?status=422", ["db_2"]),
        ("actions/replay?error=unknown", ["db_1"]),
        ("actions/replay?id=1&id=3", ["db_1", "db_3"]),
        ("actions/replay?installation=icfg_1&resource=db_3", ["db_3"]),
    ],
)
async def test_the_url_selects_what_is_taken(console: Console, trouble: Database, path: str, taken: list[str]) -> None:
    command = commands_of((await console.get(path)).text)[-1]
    options = "".join(f" --{name.replace('=', ' ')}" for name in path.partition("?")[2].split("&"))
    assert command == f"dispatcher dead-letters replay{options}"
    await ended(console, await act(console, path, note=WHY))
    with trouble.read() as connection:
        assert sorted(connection.execute(sa.select(outbox.c.resource_id)).scalars()) == sorted([*taken, "db_9"])


async def test_an_action_takes_what_its_page_shows_on_all_pages(console: Console, trouble: Database) -> None:
    copy_letters(trouble, 3)
    page = "dead-letters?reason=gone&no_error=1&status=0&before=7&show=all&view=list"
    html = (await console.get(page)).text
    (link,) = re.findall(r'href="\./(actions/discard[^"]*)"', html)
    plan = await console.get(unescape(link))
    assert "Discard 3 dead letters?" in words(plan.text)
    assert commands_of(plan.text)[-1] == "dispatcher dead-letters discard --reason gone --status 0 --error ''"
    assert f'href="../{escape(page)}">Back' in plan.text


@pytest.mark.usefixtures("trouble")
async def test_only_a_part_of_several_can_be_taken(console: Console) -> None:
    assert "Take the oldest 1 , all ." in words((await console.get("actions/replay")).text)
    assert "Take" not in words((await console.get("actions/replay?reason=gone")).text)
    assert "Take the oldest 1 , the oldest 10" in words((await console.get("actions/replay?oldest=1")).text)


@pytest.mark.parametrize("query", ["reason=none", "since=yesterday", "id=x", "id=0", "status=1000", "oldest=0"])
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_selection_that_cannot_be_used_says_why(
    console: Console, trouble: Database, query: str, method: str
) -> None:
    path = f"actions/discard?{query}"
    page = await (console.get(path) if method == "GET" else console.post(path))
    assert page.status_code == 400
    assert query.partition("=")[0] in words(page.text).partition("cannot be selected")[2]
    assert len(list_dead_letters(trouble, Filter(), 9)) == 3


@pytest.mark.parametrize(
    "path",
    [
        "actions/replay?reason=malformed",
        "actions/discard?resource=none",
        "actions/pause?installation=icfg_none",
        "actions/purge",
        "actions/delete",
        "operations/7",
    ],
)
async def test_what_is_not_there_cannot_be_acted_on(console: Console, trouble: Database, path: str) -> None:
    before = rows(trouble)
    assert (await console.get(path)).status_code == 404
    assert rows(trouble) == before


async def test_hostile_text_is_only_text(console: Console, trouble: Database) -> None:
    page = await act(console, "actions/replay?resource=db_2", note=HOSTILE[:100])
    for html in (
        (await console.get("actions/replay?resource=db_1")).text,
        page.text,
        (await console.get("operations")).text,
    ):
        assert "<script>alert" not in html
    assert len(list_dead_letters(trouble, Filter(), 9)) == 2


LIST = "dead-letters?reason=rejected&view=list&limit=500"


@pytest.mark.usefixtures("trouble")
async def test_the_way_back_leads_to_where_it_began(console: Console) -> None:
    (path,) = re.findall(r'href="\./(actions/replay[^"]*)"', (await console.get(LIST)).text)
    plan = await console.get(unescape(path))
    page = await console.post(form_of(plan), plan=plan_of(plan), note="")  # refused
    page = await console.post(form_of(page), plan=plan_of(page), note=WHY)
    await ended(console, page)
    for html in (plan.text, page.text):
        assert f'href="../{LIST}"'.replace("&", "&amp;") in html


@pytest.mark.parametrize("origin", ["", "https://evil.example.com", "//evil.example.com", "javascript:alert(1)"])
@pytest.mark.usefixtures("trouble")
async def test_the_way_back_leads_to_no_other_site(console: Console, origin: str) -> None:
    for path in (REPLAY, "dead-letters/1?"):
        html = (await console.get(f"{path}&{urlencode({'from': origin})}")).text
        assert '="../dead-letters' in html
        assert not origin or f'="../{origin}' not in html


def test_a_selection_stays_the_same_as_time_goes_on() -> None:
    now = datetime(2026, 1, 31, 12, tzinfo=UTC)
    wanted = Wanted.of(QueryParams("since=24h&no_error=1")).taken().fixed(now)
    assert wanted.filter(now + timedelta(days=9)) == Filter([], since=now - timedelta(days=1), error_prefix="")
    assert wanted.options == ("--since", "2026-01-30T12:00:00+00:00", "--error", "")


# ── what a person has to write


@pytest.mark.parametrize(
    ("path", "fields", "error"),
    [
        (REPLAY, {}, "Why is missing"),
        (REPLAY, {"note": " "}, "Why is missing"),
        (REPLAY, {"note": "x" * 2_001}, "Why is longer than 2,000 characters"),
        (REPLAY, {"note": f"{WHY}\0"}, "Why has a character that the database cannot store"),
        ("actions/discard?reason=gone", {}, "Why is missing"),
        ("actions/discard?reason=unauthorized", {"note": WHY, "typed": "100"}, "Type 101 exactly, to confirm"),
        ("actions/pause?installation=icfg_1", {}, "Why is missing"),
        ("actions/purge?installation=icfg_1", {"typed": "icfg_1"}, "Why is missing"),
        ("actions/purge?installation=icfg_1", {"note": WHY, "typed": "icfg_2"}, "Type icfg_1 exactly, to confirm"),
    ],
)
async def test_without_the_reason_or_what_has_to_be_typed_nothing_changes(
    console: Console, trouble: Database, path: str, fields: dict[str, str], error: str
) -> None:
    copy_letters(trouble, 101, "unauthorized")
    before = rows(trouble)
    page = await act(console, path, **fields)
    assert page.status_code == 400
    assert error in words(page.text)
    assert page.text.count("aria-invalid") == 1
    assert rows(trouble) == before


async def test_one_letter_is_replayed_without_a_reason_and_101_discarded_with_their_number(
    console: Console, trouble: Database
) -> None:
    copy_letters(trouble, 101, "unauthorized")
    await ended(console, await act(console, "actions/replay?id=1"))
    assert resolved(trouble)[0] == ("replayed", OPERATOR, None)
    await ended(console, await act(console, "actions/discard?reason=unauthorized", note=WHY, typed="101"))
    assert resolved(trouble)[-101:] == [("discarded", OPERATOR, WHY)] * 101


@on_databases
async def test_an_installation_is_paused_resumed_and_purged(console: Console, trouble: Database) -> None:
    text = words((await console.get("actions/pause?installation=icfg_1")).text)
    assert "Pause icfg_1?" in text
    assert "nothing dies meanwhile" in text
    await ended(console, await act(console, "actions/pause?installation=icfg_1", note=WHY))
    columns = installation.c
    pause = sa.select(columns.pause_reason, columns.paused_by, columns.pause_note)
    with trouble.read() as connection:
        row = connection.execute(pause.where(columns.installation_id == "icfg_1")).one()
    assert tuple(row) == ("operator", OPERATOR, WHY)
    text = words((await console.get("actions/resume?installation=icfg_1")).text)
    assert "Events 1 in the outbox, sent at once" in text
    await ended(console, await act(console, "actions/resume?installation=icfg_1"))
    with trouble.read() as connection:
        assert connection.execute(pause.where(columns.installation_id == "icfg_1")).one().pause_reason is None
    purge = await console.get("actions/purge?installation=icfg_1")
    undo = "dispatcher dead-letters replay --installation icfg_1 --reason purged"
    assert undo in commands_of(purge.text)
    with capture_logs() as logs:
        text = await ended(console, await act(console, "actions/purge?installation=icfg_1", note=WHY, typed="icfg_1"))
    assert [(line["action"], line["installation_id"], line["state"]) for line in logs] == [
        ("purge", "icfg_1", "waiting"),
        ("purge", "icfg_1", "done"),
    ]
    assert resolved(trouble)[-1] == ("discarded", OPERATOR, WHY)
    again = await console.get("actions/replay?installation=icfg_1&reason=purged")
    assert "db_9" in words(again.text)
    assert [one["installation_id"] for one in installations(trouble)] == ["icfg_2"]


def installations(database: Database) -> list[sa.RowMapping]:
    with database.read() as connection:
        return list(connection.execute(sa.select(installation)).mappings())


# ── tokens


async def test_a_form_without_the_token_of_its_plan_changes_nothing(
    console: Console, start: Start, trouble: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = await console.get(REPLAY)
    token, path = plan_of(page), form_of(page)
    last_id, number, ends_at, signature = token.split(".")
    async with httpx.AsyncClient(verify=NO_TLS, trust_env=False, follow_redirects=True) as other:
        await other.get(console.at(f"login?token={console.token}"))
        foreign = plan_of(await other.get(console.at(REPLAY)))
    other_console = plan_of(await (await start(may_write=True)).get(REPLAY))
    wider = plan_of(await console.get("actions/replay"))
    other_action = plan_of(await console.get("actions/discard?reason=rejected"))
    monkeypatch.setattr(plan_tokens, "PLAN_SECONDS", 0)
    expired = plan_of(await console.get(REPLAY))
    before = rows(trouble)
    for wrong in (
        "",
        "x",
        "...",
        "٣.2.3.x",
        foreign,
        other_console,
        wider,
        other_action,
        expired,
        f"{last_id}9.{number}.{ends_at}.{signature}",
        f"{last_id}.{int(number) + 1}.{ends_at}.{signature}",
        f"{last_id}.{number}.{int(ends_at) + 1}.{signature}",
        f"{token[:-1]}é",
    ):
        answer = await console.post(path, plan=wrong, note=WHY)
        assert answer.status_code == 403, wrong
        assert "Nothing was changed: the plan was older than ten minutes" in words(answer.text)
    assert (await console.post(path, note=WHY)).status_code == 403
    assert (await console.post(path.replace("rejected", "gone"), plan=token, note=WHY)).status_code == 403
    assert rows(trouble) == before
    assert "Of this console since it began None yet." in words((await console.get("operations")).text)


def test_a_token_is_good_for_ten_minutes() -> None:
    clock = iter([0.0, PLAN_SECONDS - 1, PLAN_SECONDS])
    tokens, visitor, promise = (
        PlanTokens(lambda: next(clock)),
        Visitor("anna", may_write=True),
        Promise("replay", "", 7, 3),
    )
    token = tokens.issue(visitor, promise)
    assert [tokens.read(visitor, "replay", "", token) for _ in range(2)] == [promise, None]


# ── operations


@contextmanager
def within(seconds: float) -> Iterator[None]:
    began = time.monotonic()
    yield
    assert time.monotonic() - began < seconds


@on_postgresql
async def test_twenty_thousand_letters_are_replayed_in_the_background_and_can_be_stopped(
    console: Console, trouble: Database
) -> None:
    copy_letters(trouble, 20_000)
    plan = await console.get("actions/replay?reason=gone")
    with within(1):
        started = await console.browser.post(
            console.at(form_of(plan)),
            data={"plan": plan_of(plan), "note": WHY},
            headers=console.origin,
            follow_redirects=False,
        )
    assert (started.status_code, started.headers["location"]) == (303, "../operations/1")
    token = plan_of(await console.get("operations/1"))
    assert (await console.post("operations/1/stop", plan=f"{token}0")).status_code == 403
    assert (await console.post("operations/7/stop", plan=token)).status_code == 404
    text = await ended(console, await console.post("operations/1/stop", plan=token))
    found = re.search(r"([\d,]+) of 20,001 dead letters: stopped", text)
    assert found, text
    done = int(found[1].replace(",", ""))
    assert done < 20_001
    assert done % 500 == 0
    assert sum(one[0] == "replayed" for one in resolved(trouble)) == done
    text = await ended(console, await act(console, "actions/replay?reason=gone", note=WHY))
    assert f"{20_001 - done:,} of {20_001 - done:,}" in text
    assert {one[0] for one in resolved(trouble)[4:]} == {"replayed"}
    text = words((await console.get("operations")).text)
    assert text.index(f"Replay {20_001 - done:,} dead letters") < text.index("Replay 20,001 dead letters")


@on_databases
def test_a_stopped_replay_and_the_next_that_finishes_it_are_followed_apart(trouble: Database) -> None:
    copy_letters(trouble, 2)
    gone = Filter(reason=DeadLetterReason.GONE)
    all_of_them = partial(replay, wanted=gone, until=MAX_ID, chunk=2)

    def replay_one_chunk(database: Database, *, signature: Signature, progress: Progress) -> int:
        def stop_after(done: int) -> None:
            first.stop()
            progress(done)

        return all_of_them(database, signature=signature, progress=stop_after)

    work = replace(no_work(replay_one_chunk, 3), replayed=gone)
    first = Operation(1, work, SIGNATURE, trouble.now())
    second = Operation(2, replace(work, change=all_of_them), SIGNATURE, trouble.now())
    first.run(trouble)
    assert first.replays
    assert first.replays.until
    while trouble.now() < first.replays.until:
        time.sleep(0.001)
    second.run(trouble)
    assert [(one.state, one.done) for one in (first, second)] == [(State.STOPPED, 2), (State.DONE, 1)]
    assert aftermath(trouble, first.replays).dead_letters == 2


def no_work(change: Change, total: int = 2) -> Work:
    return Work("Replay 2 dead letters", "replay", {"dead_letters": total}, total, change, origin="dead-letters")


@contextmanager
def opened_operations(database: Database) -> Iterator[Operations]:
    with closing(Operations(open_database(database.engine.url.render_as_string(hide_password=False)))) as operations:
        yield operations


def test_when_the_console_stops_each_operation_ends_after_its_chunk(database: Database) -> None:
    began, go_on = Event(), Event()

    def change(_: Database, *, signature: Signature, progress: Progress) -> int:
        assert signature == SIGNATURE
        for done in range(1, 10):
            began.set()
            go_on.wait(30)
            progress(done)
        return 9

    with capture_logs() as logs, opened_operations(database) as operations:
        running = [operations.start(no_work(change, 9), SIGNATURE, database.now()) for _ in range(MAX_AT_ONCE + 1)]
        began.wait(30)
        running[-1].stop()
        assert [one.is_stopping for one in running] == [False, False, True]
        stopping = Thread(target=operations.stop)
        stopping.start()
        while not all(one.is_stopping for one in running):
            time.sleep(0.01)
        go_on.set()
        stopping.join()
    assert [(one.state, one.done) for one in running] == [(State.STOPPED, 1), (State.STOPPED, 1), (State.STOPPED, 0)]
    assert sorted(line["done"] for line in logs if line["state"] == "stopped") == [0, 1, 1]


def test_an_operation_that_has_done_everything_is_not_stopped(database: Database) -> None:
    operation = Operation(1, no_work(lambda _, signature, progress: stop_and(progress, 2)), SIGNATURE, database.now())  # noqa: ARG005

    def stop_and(progress: Progress, done: int) -> int:
        operation.stop()
        progress(done)
        return done

    operation.run(database)
    assert (operation.state, operation.done, operation.is_stopping) == (State.DONE, 2, False)


@pytest.mark.usefixtures("trouble")
async def test_an_operation_that_fails_says_why(console: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> bool:
        raise ZeroDivisionError("hush")

    monkeypatch.setattr("dispatcher.console.proposals.pause", fail)
    with capture_logs() as logs:
        text = await ended(console, await act(console, "actions/pause?installation=icfg_1", note=WHY))
    assert "Pause icfg_1 failed" in text
    assert "It has failed: ZeroDivisionError." in text
    assert "hush" not in text
    assert [line["event"] for line in logs] == ["operator action", "operator action failed", "operator action"]
    assert logs[-1]["state"] == "failed"


async def test_without_the_database_nothing_is_planned_and_operations_say_what_they_have_done(
    start: Start, trouble: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dispatcher.console.reading.SHARED_SECONDS", 0.0)
    opened = open_database(trouble.engine.url.render_as_string())
    console = await start(opened=opened, may_write=True)
    await ended(console, await act(console, REPLAY, note=WHY))
    plan = await console.get("actions/replay?id=3")
    Away(opened).leave()
    for path in ("operations", "operations/1"):
        page = await console.get(path)
        assert page.status_code == 503
        assert "2 of 2" in words(page.text)
        assert "Stale" in words(page.text)
    assert (await console.get(REPLAY)).status_code == 503
    refused = await console.post(form_of(plan), plan=plan_of(plan))
    assert refused.status_code == 503
    assert "Nothing was changed" in words(refused.text)


# ── who may not


async def test_without_write_there_are_commands_in_the_place_of_buttons(start: Start, trouble: Database) -> None:
    console, before = await start(), rows(trouble)
    for path in (*ACTIONS, "operations/1", "operations/1/stop"):
        assert (await console.get(path)).status_code == 404
        assert (await console.post(path)).status_code == 404
    assert rows(trouble) == before
    for path, options in (
        ("dead-letters?reason=gone", "--reason gone"),
        ("dead-letters", "--all"),
        ("dead-letters/1", "--id 1"),
    ):
        html = (await console.get(path)).text
        commands = [f"dispatcher dead-letters {name} {options}" for name in ("replay", "discard")]
        assert set(commands) <= set(commands_of(html))
        assert "actions/" not in html


async def test_only_operators_may_act(start: Start, trouble: Database) -> None:
    console = await start(may_write=True, console_user_header="X-User", console_operators=("anna",))
    headers = {**console.origin, "x-user": "anna"}
    page = await console.browser.get(console.at(REPLAY), headers=headers)
    before = rows(trouble)
    for path in (*ACTIONS, "operations/1/stop"):
        for answer in (
            await console.browser.get(console.at(path), headers={"x-user": "otto"}),
            await console.browser.post(
                console.at(path), headers={**headers, "x-user": "otto"}, data={"plan": plan_of(page)}
            ),
        ):
            assert answer.status_code == (405 if answer.request.method == "GET" and "stop" in path else 403)
    assert "actions/" not in (await console.browser.get(console.at("dead-letters"), headers={"x-user": "otto"})).text
    assert rows(trouble) == before
    form = {"plan": plan_of(page), "note": WHY}
    answer = await console.browser.post(console.at(form_of(page)), headers=headers, data=form)
    assert "By anna" in words(answer.text)


@on_databases
async def test_opening_every_page_twice_changes_no_table(console: Console, trouble: Database) -> None:
    await ended(console, await act(console, "actions/replay?id=1"))
    before = rows(trouble)
    for _ in range(2):
        pages = await console.crawl()
        assert {page.status_code for page in pages.values()} == {200}
        assert sum("/actions/" in url for url in pages) >= 20
        assert any("/operations/1" in url for url in pages)
    assert rows(trouble) == before


@pytest.mark.usefixtures("trouble")
async def test_a_plan_page_is_not_renewed_under_ones_hands(console: Console) -> None:
    assert "data-live" not in (await console.get(REPLAY)).text
    assert "data-live" not in (await console.post(REPLAY, note=WHY)).text
    assert "data-live" not in (await console.get("actions/replay?resource=none")).text
    assert "data-live" in (await console.get("dead-letters")).text


@on_postgresql
async def test_where_the_database_takes_no_writes_there_are_commands_and_a_banner(
    start: Start, trouble: Database
) -> None:
    name = trouble.engine.url.database
    with read_only(
        trouble, f'ALTER DATABASE "{name}" SET default_transaction_read_only = on', f'ALTER DATABASE "{name}" RESET ALL'
    ):
        console = await start(may_write=True)
        await refuses(console, "Read-only: the server takes no writes: default_transaction_read_only is on")
    assert len(list_dead_letters(trouble, Filter(), 9)) == 3


@on_postgresql
async def test_a_user_who_may_only_read_gets_the_same(start: Start, trouble: Database) -> None:
    user = f"reader_of_{trouble.engine.url.database}"
    grant = f"CREATE ROLE {user} LOGIN PASSWORD 'hush'; GRANT SELECT ON ALL TABLES IN SCHEMA public TO {user}"
    with read_only(trouble, grant, f"DROP OWNED BY {user}; DROP ROLE {user}"):
        url = trouble.engine.url.set(username=user, password="hush")
        opened = open_database(url.render_as_string(hide_password=False), read_only=True)
        console = await start(may_write=True, opened=opened)
        await refuses(console, "Read-only: the database's user lacks a privilege: GRANT")
        opened.close()


@contextmanager
def read_only(database: Database, before: str, after: str) -> Iterator[None]:
    """Executes a statement, and at the end the one that undoes it."""
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("SET default_transaction_read_only = off")
        for statement in before.split("; "):
            connection.exec_driver_sql(statement)
        try:
            yield
        finally:
            for statement in after.split("; "):
                connection.exec_driver_sql(statement)


async def refuses(console: Console, banner: str) -> None:
    pages = await console.crawl()
    assert len(pages) >= 10
    assert {page.status_code for page in pages.values()} == {200}
    html = (await console.get("dead-letters")).text
    assert banner in unescape(words(html))
    assert "actions/" not in html
    plan = await console.get(REPLAY)
    assert plan.status_code == 200
    assert 'name="plan"' not in plan.text
    assert commands_of(plan.text)[-1] == "dispatcher dead-letters replay --reason rejected"
    assert (await console.post(REPLAY, note=WHY)).status_code == 403
