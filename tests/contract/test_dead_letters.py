"""What operators do with dead letters, on every database."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine

from dispatcher import store
from dispatcher.database.transactions import Database
from dispatcher.inspection import dead_letters
from dispatcher.inspection.dead_letters import ADVICE, Filter, Signature
from dispatcher.outbox.tables import dead_letter, outbox
from dispatcher.policy.decision import Action, DeadLetterReason, Decision
from dispatcher.policy.rate_window import RateLimit
from tests.contract.databases import on_servers
from tests.contract.steps import (
    ID,
    REJECTED,
    claim,
    count,
    deliver,
    in_background,
    settle,
    stays_blocked,
    write,
)

ANN = Signature("ann", "the id is right now")


def die(database: Database, partner: Engine, *resources: str, installation_id: str = ID) -> None:
    """Each of them a dead letter."""
    with partner.begin() as connection:
        write(connection, *resources, installation_id=installation_id)
    store.collect(database, 500)
    settle(database, *claim(database), decision=REJECTED)


def announce_product(database: Database, partner: Engine, product: str | None, resource: str = "db_é ") -> None:
    schema = f"{database.schema}." if database.schema else ""
    insert = (
        f"INSERT INTO {schema}vercel_outbox (installation_id, type, resource_id, product_id) VALUES (:i, :t, :r, :p)"
    )
    with partner.begin() as connection:
        connection.execute(sa.text(insert), {"i": ID, "t": "resource.updated", "r": resource, "p": product})


def die_with_product(database: Database, partner: Engine, product: str) -> None:
    announce_product(database, partner, product)
    store.collect(database, 500)
    settle(database, *claim(database), decision=REJECTED)


def announce_plan(database: Database, partner: Engine, plan: str) -> None:
    schema = f"{database.schema}." if database.schema else ""
    insert = f"INSERT INTO {schema}vercel_outbox (installation_id, type, billing_plan_id) VALUES (:i, :t, :p)"
    with partner.begin() as connection:
        connection.execute(sa.text(insert), {"i": ID, "t": "installation.updated", "p": plan})


def die_with_plan(database: Database, partner: Engine, plan: str) -> None:
    announce_plan(database, partner, plan)
    store.collect(database, 500)
    settle(database, *claim(database), decision=REJECTED)


def bury_malformed(database: Database) -> None:
    """As a collection does with a row that can never be a request."""
    now = database.now()
    with database.engine.begin() as connection:
        connection.execute(
            sa.insert(dead_letter).values(
                died_at=now,
                reason="malformed",
                installation_id=ID,
                type="nonsense",
                events=1,
                first_event_id=1,
                last_event_id=1,
                first_created_at=now,
                attempts=0,
                last_error="type must be …",
            )
        )


def replay(database: Database, wanted: Filter | None = None, signature: Signature = ANN) -> int:
    wanted = wanted or Filter()
    until = dead_letters.plan(database, wanted).last_id
    return dead_letters.replay(database, wanted, until, signature, lambda _: None)


def discard(database: Database, wanted: Filter | None = None) -> int:
    wanted = wanted or Filter()
    until = dead_letters.plan(database, wanted).last_id
    return dead_letters.discard(database, wanted, until, ANN, lambda _: None)


def resolutions(database: Database) -> list[str | None]:
    """Of every dead letter, in the order of their deaths."""
    with database.read() as connection:
        return list(connection.execute(sa.select(dead_letter.c.resolution).order_by(dead_letter.c.id)).scalars())


def in_outbox(database: Database, column: sa.Column[str]) -> list[str | None]:
    with database.read() as connection:
        return list(connection.execute(sa.select(column).order_by(outbox.c.id)).scalars())


@pytest.mark.varies
def test_a_replay_goes_through_the_outbox_and_says_who_and_why(database: Database, partner: Engine) -> None:
    die(database, partner, "db_1", "db_2")
    assert replay(database) == 2
    for letter in dead_letters.list_dead_letters(database, Filter(), 9, resolved=True):
        assert (letter.resolution, letter.resolved_by, letter.note) == ("replayed", *(ANN.by, ANN.note))
        assert letter.resolved_at is not None
        assert abs(letter.resolved_at - database.now()) < timedelta(minutes=1)
    assert sorted(map(str, deliver(database))) == ["db_1", "db_2"]


def test_replaying_twice_replays_once(database: Database, partner: Engine) -> None:
    die(database, partner, "db_1")
    assert [replay(database), replay(database)] == [1, 0]
    assert dead_letters.replay(database, Filter(), 99, ANN, lambda _: None) == 0
    assert count(database, outbox) == 1


@pytest.mark.varies
@on_servers
def test_of_two_replays_at_once_one_waits_and_then_finds_nothing(database: Database, partner: Engine) -> None:
    die(database, partner, "db_1")
    (letter,) = dead_letters.list_dead_letters(database, Filter(), 9)
    with database.engine.connect() as first, first.begin() as transaction:
        done = dead_letters._replay(first, database.dialect, Filter(), 0, letter.id, ANN)
        assert done == [letter.id]
        with in_background(lambda: dead_letters.replay(database, Filter(), letter.id, ANN, lambda _: None)) as second:
            try:
                assert stays_blocked(second, database)
            finally:
                transaction.commit()
    assert second.result() == 0
    assert count(database, outbox) == 1


def test_what_a_replay_sends_keeps_its_subject_and_product(database: Database, partner: Engine) -> None:
    die_with_product(database, partner, "pg")
    (letter,) = dead_letters.list_dead_letters(database, Filter(), 9)
    replay(database)
    store.collect(database, 500)
    ((again,),) = [lease.deliveries for lease in claim(database)]
    assert again.subject_key == letter.subject_key
    assert (again.subject.resource_id, again.product_id) == ("db_é ", "pg")


@pytest.mark.parametrize("collected", [False, True])
@pytest.mark.parametrize(("product", "sent"), [("new", "new"), (None, "old")])
def test_an_old_product_does_not_overtake_a_newer_one_that_waits(
    database: Database, partner: Engine, collected: bool, product: str | None, sent: str
) -> None:
    die_with_product(database, partner, "old")
    announce_product(database, partner, product)
    if collected:
        store.collect(database, 500)
    replay(database)
    store.collect(database, 500)
    assert [(one.product_id, one.events) for lease in claim(database) for one in lease.deliveries] == [(sent, 2)]


def test_the_product_of_another_resource_that_waits_overtakes_nothing(database: Database, partner: Engine) -> None:
    die_with_product(database, partner, "old")
    announce_product(database, partner, "new", "db_é")
    replay(database)
    store.collect(database, 500)
    found = {one.subject.resource_id: one.product_id for lease in claim(database) for one in lease.deliveries}
    assert found == {"db_é ": "old", "db_é": "new"}


def test_an_old_product_does_not_overtake_a_newer_one_that_died_too(database: Database, partner: Engine) -> None:
    die_with_product(database, partner, "old")
    die_with_product(database, partner, "new")
    first = dead_letters.list_dead_letters(database, Filter(), 9)[-1]
    assert replay(database, Filter(ids=[first.id])) == 1
    assert replay(database) == 1
    assert in_outbox(database, outbox.c.product_id) == [None, "new"]


def test_a_replay_carries_the_billing_plan(database: Database, partner: Engine) -> None:
    die_with_plan(database, partner, "pro")
    replay(database)
    store.collect(database, 500)
    assert [one.billing_plan_id for lease in claim(database) for one in lease.deliveries] == ["pro"]


@pytest.mark.parametrize("collected", [False, True])
def test_an_old_plan_does_not_overtake_a_newer_one_that_waits(
    database: Database, partner: Engine, collected: bool
) -> None:
    die_with_plan(database, partner, "old")
    announce_plan(database, partner, "new")
    if collected:
        store.collect(database, 500)
    replay(database)
    store.collect(database, 500)
    assert [one.billing_plan_id for lease in claim(database) for one in lease.deliveries] == ["new"]


def test_an_old_plan_does_not_overtake_a_newer_one_that_died_too(database: Database, partner: Engine) -> None:
    die_with_plan(database, partner, "old")
    die_with_plan(database, partner, "new")
    first = dead_letters.list_dead_letters(database, Filter(), 9)[-1]
    assert replay(database, Filter(ids=[first.id])) == 1
    assert replay(database) == 1
    assert in_outbox(database, outbox.c.billing_plan_id) == [None, "new"]


def test_a_malformed_dead_letter_cannot_be_replayed_but_discarded(database: Database, partner: Engine) -> None:
    bury_malformed(database)
    die(database, partner, "db_1")
    plan = dead_letters.plan(database, Filter())
    assert (plan.dead_letters, plan.malformed, plan.requests) == (2, 1, 1)
    assert replay(database) == 1
    assert resolutions(database) == [None, "replayed"]
    assert discard(database) == 1
    assert resolutions(database) == ["discarded", "replayed"]


def test_a_success_after_a_replay_supersedes_what_else_died_of_the_subject(database: Database, partner: Engine) -> None:
    die(database, partner, "db_1")
    die(database, partner, "db_1", "db_2")
    replay(database, Filter(ids=[dead_letters.list_dead_letters(database, Filter(resource_id="db_1"), 9)[-1].id]))
    assert deliver(database) == ["db_1"]
    by_subject = {
        (letter.resource_id, letter.resolution)
        for letter in dead_letters.list_dead_letters(database, Filter(), 9, resolved=True)
    }
    assert by_subject == {("db_1", "replayed"), ("db_1", "superseded"), ("db_2", None)}


def test_a_replay_that_dies_again_is_a_new_dead_letter(database: Database, partner: Engine) -> None:
    die(database, partner, "db_1")
    replay(database)
    store.collect(database, 500)
    settle(database, *claim(database), decision=REJECTED)
    assert resolutions(database) == ["replayed", None]


def test_a_discarded_dead_letter_is_never_sent(database: Database, partner: Engine) -> None:
    die(database, partner, "db_1")
    assert discard(database) == 1
    assert replay(database) == 0
    assert deliver(database) == []
    assert resolutions(database) == ["discarded"]


@on_servers
def test_a_success_that_waits_for_a_replay_does_not_change_what_was_recorded(
    database: Database, partner: Engine
) -> None:
    die(database, partner, "db_1")
    with partner.begin() as connection:
        write(connection, "db_1")
    store.collect(database, 500)
    leased = claim(database)
    with database.engine.connect() as replaying, replaying.begin() as transaction:
        dead_letters._replay(replaying, database.dialect, Filter(), 0, 99, ANN)
        with in_background(lambda: settle(database, *leased)) as settling:
            try:
                assert stays_blocked(settling, database)
            finally:
                transaction.commit()
    assert settling.result().superseded == 0
    assert resolutions(database) == ["replayed"]


CHOICES: list[tuple[Callable[[list[dead_letters.DeadLetter]], Filter], set[str]]] = [
    (lambda letters: Filter(ids=[letters[0].id]), {"db_1"}),
    (lambda letters: Filter(ids=[letters[0].id, letters[2].id]), {"db_1", "db_3"}),
    (lambda _: Filter(installation_id="icfg_2"), {"db_3", "db_1 "}),
    (lambda _: Filter(resource_id="db_1"), {"db_1"}),  # byte for byte
    (lambda _: Filter(resource_id="DB_1"), set()),
    (lambda _: Filter(reason=DeadLetterReason.REJECTED), {"db_1", "db_2", "db_3", "db_1 "}),
    (lambda _: Filter(reason=DeadLetterReason.GONE), set()),
    (lambda letters: Filter(since=letters[2].died_at), {"db_3", "db_1 "}),
    (lambda _: Filter(installation_id=ID, resource_id="db_3"), set()),
]


def test_a_filter_chooses_what_meets_all_its_conditions(database: Database, partner: Engine) -> None:
    for resources, installation_id in ((["db_1"], ID), (["db_2"], ID), (["db_3", "db_1 "], "icfg_2")):
        die(database, partner, *resources, installation_id=installation_id)
    letters = dead_letters.list_dead_letters(database, Filter(), 9)[::-1]
    letters.sort(key=lambda letter: (letter.died_at, letter.resource_id == "db_1 "))
    for choose, chosen in CHOICES:
        wanted = choose(letters)
        found = dead_letters.list_dead_letters(database, wanted, 9)
        assert {letter.resource_id for letter in found} == chosen, wanted
        assert dead_letters.plan(database, wanted).dead_letters == len(chosen), wanted
    assert discard(database, Filter(resource_id="db_1")) == 1
    assert resolutions(database).count("discarded") == 1


def test_a_list_holds_the_newest_and_no_more_than_asked_for(database: Database, partner: Engine) -> None:
    for resource in ("db_1", "db_2", "db_3"):
        die(database, partner, resource)
    discard(database, Filter(resource_id="db_3"))
    found = dead_letters.list_dead_letters(database, Filter(), 1)
    assert [letter.resource_id for letter in found] == ["db_2"]
    assert len(dead_letters.list_dead_letters(database, Filter(), 9, resolved=True)) == 3


@pytest.mark.parametrize("dead", [2, 3])
def test_chunks_leave_nothing_out_and_report_how_far_they_are(
    database: Database, partner: Engine, monkeypatch: pytest.MonkeyPatch, dead: int
) -> None:
    monkeypatch.setattr("dispatcher.inspection.dead_letters.CHUNK", 2)
    die(database, partner, *(f"db_{number}" for number in range(dead)))
    said: list[int] = []
    until = dead_letters.plan(database, Filter()).last_id
    assert dead_letters.replay(database, Filter(), until, ANN, said.append) == dead
    assert said[-1] == dead
    assert len(said) == (dead + 1) // 2
    assert len(deliver(database)) == dead


def test_what_dies_after_the_plan_was_made_is_left_to_the_next(database: Database, partner: Engine) -> None:
    die(database, partner, "db_1")
    plan = dead_letters.plan(database, Filter())
    die(database, partner, "db_2")
    assert dead_letters.discard(database, Filter(), plan.last_id, ANN, lambda _: None) == 1
    assert [letter.resource_id for letter in dead_letters.list_dead_letters(database, Filter(), 9)] == ["db_2"]


def test_a_plan_counts_rows_requests_and_the_busiest_installation(database: Database, partner: Engine) -> None:
    assert dead_letters.plan(database, Filter()) == dead_letters.Plan(0, 0, 0, 0, 0)
    die(database, partner, "db_1", "db_2")
    die(database, partner, "db_1")
    die(database, partner, "db_1", installation_id="icfg_2")
    found = dead_letters.plan(database, Filter())
    assert replace(found, last_id=0) == dead_letters.Plan(4, 0, 3, 2, 0)


PACES = [(0, 0.0), (1, 0.0), (60, 0.0), (61, 60.0), (120, 60.0), (121, 120.0)]


@pytest.mark.parametrize(("requests", "seconds"), PACES)
def test_the_time_of_a_replay_is_that_of_its_busiest_installation(requests: int, seconds: float) -> None:
    minute = RateLimit(60, 60.0)
    found = dead_letters.Plan(500, 0, requests, requests, 1)
    assert found.seconds(minute, None) == found.seconds(None, minute) == seconds
    assert found.seconds(None, None) == 0.0


def test_a_dead_letter_is_shown_with_the_attempts_that_led_to_it(database: Database, partner: Engine) -> None:
    with partner.begin() as connection:
        write(connection, "db_1", "db_2")
    store.collect(database, 500)
    settle(database, *claim(database), decision=Decision(Action.RETRY, delay=-1))
    settle(database, *claim(database), decision=REJECTED)
    die(database, partner, "db_1")
    ids = {
        letter.id: letter for letter in dead_letters.list_dead_letters(database, Filter(resource_id="db_1"), 9)[::-1]
    }
    first, second = (dead_letters.find_dead_letter(database, id_) for id_ in ids)
    assert first is not None
    assert second is not None
    assert [(one.resource_id, one.attempt, one.decision) for one in first[1]] == [
        ("db_1", 1, "retry"),
        ("db_1", 2, "dead_letter"),
    ]
    assert [one.attempt for one in second[1]] == [1]
    assert dead_letters.find_dead_letter(database, 99) is None


def test_a_malformed_dead_letter_is_shown_without_attempts(database: Database) -> None:
    bury_malformed(database)
    (letter,) = dead_letters.list_dead_letters(database, Filter(), 9)
    assert dead_letters.find_dead_letter(database, letter.id) == (letter, [])


def test_a_dead_letter_of_an_installation_itself_shows_its_attempts(database: Database, partner: Engine) -> None:
    die_with_plan(database, partner, "pro")
    (letter,) = dead_letters.list_dead_letters(database, Filter(), 9)
    found = dead_letters.find_dead_letter(database, letter.id)
    assert found is not None
    assert [one.type for one in found[1]] == ["installation.updated"]


def test_there_is_advice_for_every_reason() -> None:
    assert set(ADVICE) == set(DeadLetterReason)
