"""Operators list, replay and discard dead letters, on every database."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine

from dispatcher import store
from dispatcher.database.transactions import Database
from dispatcher.inspection.dead_letters import ADVICE, DeadLetter, Plan, find_dead_letter, list_dead_letters, plan
from dispatcher.outbox.tables import dead_letter, outbox
from dispatcher.policy.decision import Action, DeadLetterReason, Decision
from dispatcher.policy.rate_window import RateLimit
from dispatcher.store import dead_letters
from dispatcher.store.dead_letters import NO_ERROR, NO_STATUS, Filter, Signature
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
    """Makes a dead letter for each resource."""
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


def bury_malformed(database: Database, error: str | None = "type must be …") -> None:
    """Inserts the dead letter that a collection makes of a malformed row."""
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
                last_error=error,
            )
        )


def replay(database: Database, wanted: Filter | None = None, signature: Signature = ANN) -> int:
    wanted = wanted or Filter()
    until = plan(database, wanted).last_id
    return dead_letters.replay(database, wanted, until, signature, lambda _: None)


def discard(database: Database, wanted: Filter | None = None) -> int:
    wanted = wanted or Filter()
    until = plan(database, wanted).last_id
    return dead_letters.discard(database, wanted, until, ANN, lambda _: None)


def resolutions(database: Database) -> list[str | None]:
    """Returns the resolution of every dead letter, oldest first."""
    with database.read() as connection:
        return list(connection.execute(sa.select(dead_letter.c.resolution).order_by(dead_letter.c.id)).scalars())


def in_outbox(database: Database, column: sa.Column[str]) -> list[str | None]:
    with database.read() as connection:
        return list(connection.execute(sa.select(column).order_by(outbox.c.id)).scalars())


@pytest.mark.varies
def test_a_replay_goes_through_the_outbox_and_records_by_whom_and_why(database: Database, partner: Engine) -> None:
    die(database, partner, "db_1", "db_2")
    assert replay(database) == 2
    for letter in list_dead_letters(database, Filter(), 9, resolved=True):
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
def test_of_two_concurrent_replays_one_waits_and_then_finds_nothing(database: Database, partner: Engine) -> None:
    die(database, partner, "db_1")
    (letter,) = list_dead_letters(database, Filter(), 9)
    with database.engine.connect() as first, first.begin() as transaction:
        done = dead_letters._replay(first, database.dialect, Filter(), 0, letter.id, ANN, 500)
        assert done == [letter.id]
        with in_background(lambda: dead_letters.replay(database, Filter(), letter.id, ANN, lambda _: None)) as second:
            try:
                assert stays_blocked(second, database)
            finally:
                transaction.commit()
    assert second.result() == 0
    assert count(database, outbox) == 1


def test_a_replay_keeps_the_subject_and_the_product(database: Database, partner: Engine) -> None:
    die_with_product(database, partner, "pg")
    (letter,) = list_dead_letters(database, Filter(), 9)
    replay(database)
    store.collect(database, 500)
    ((again,),) = [lease.deliveries for lease in claim(database)]
    assert again.subject_key == letter.subject_key
    assert (again.subject.resource_id, again.product_id) == ("db_é ", "pg")


@pytest.mark.parametrize("collected", [False, True])
@pytest.mark.parametrize(("product", "sent"), [("new", "new"), (None, "old")])
def test_an_old_product_does_not_overtake_a_newer_one_that_is_waiting(
    database: Database, partner: Engine, collected: bool, product: str | None, sent: str
) -> None:
    die_with_product(database, partner, "old")
    announce_product(database, partner, product)
    if collected:
        store.collect(database, 500)
    replay(database)
    store.collect(database, 500)
    assert [(one.product_id, one.events) for lease in claim(database) for one in lease.deliveries] == [(sent, 2)]


def test_a_waiting_product_of_another_resource_overtakes_nothing(database: Database, partner: Engine) -> None:
    die_with_product(database, partner, "old")
    announce_product(database, partner, "new", "db_é")
    replay(database)
    store.collect(database, 500)
    products = {one.subject.resource_id: one.product_id for lease in claim(database) for one in lease.deliveries}
    assert products == {"db_é ": "old", "db_é": "new"}


def test_an_old_product_does_not_overtake_a_newer_one_that_died_too(database: Database, partner: Engine) -> None:
    die_with_product(database, partner, "old")
    die_with_product(database, partner, "new")
    first = list_dead_letters(database, Filter(), 9)[-1]
    assert replay(database, Filter(ids=[first.id])) == 1
    assert replay(database) == 1
    assert in_outbox(database, outbox.c.product_id) == [None, "new"]


def test_a_replay_carries_the_billing_plan(database: Database, partner: Engine) -> None:
    die_with_plan(database, partner, "pro")
    replay(database)
    store.collect(database, 500)
    assert [one.billing_plan_id for lease in claim(database) for one in lease.deliveries] == ["pro"]


@pytest.mark.parametrize("collected", [False, True])
def test_an_old_plan_does_not_overtake_a_newer_one_that_is_waiting(
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
    first = list_dead_letters(database, Filter(), 9)[-1]
    assert replay(database, Filter(ids=[first.id])) == 1
    assert replay(database) == 1
    assert in_outbox(database, outbox.c.billing_plan_id) == [None, "new"]


def test_a_malformed_dead_letter_can_be_discarded_but_not_replayed(database: Database, partner: Engine) -> None:
    bury_malformed(database)
    die(database, partner, "db_1")
    planned = plan(database, Filter())
    assert (planned.dead_letters, planned.malformed, planned.requests) == (2, 1, 1)
    assert replay(database) == 1
    assert resolutions(database) == [None, "replayed"]
    assert discard(database) == 1
    assert resolutions(database) == ["discarded", "replayed"]


def test_a_success_after_a_replay_supersedes_the_subjects_other_dead_letters(
    database: Database, partner: Engine
) -> None:
    die(database, partner, "db_1")
    die(database, partner, "db_1", "db_2")
    replay(database, Filter(ids=[list_dead_letters(database, Filter(resource_id="db_1"), 9)[-1].id]))
    assert deliver(database) == ["db_1"]
    by_subject = {
        (letter.resource_id, letter.resolution) for letter in list_dead_letters(database, Filter(), 9, resolved=True)
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
def test_a_success_that_waits_for_a_replay_does_not_change_its_resolution(database: Database, partner: Engine) -> None:
    die(database, partner, "db_1")
    with partner.begin() as connection:
        write(connection, "db_1")
    store.collect(database, 500)
    leased = claim(database)
    with database.engine.connect() as replaying, replaying.begin() as transaction:
        dead_letters._replay(replaying, database.dialect, Filter(), 0, 99, ANN, 500)
        with in_background(lambda: settle(database, *leased)) as settling:
            try:
                assert stays_blocked(settling, database)
            finally:
                transaction.commit()
    assert settling.result().superseded == 0
    assert resolutions(database) == ["replayed"]


CHOICES: list[tuple[Callable[[list[DeadLetter]], Filter], set[str]]] = [
    (lambda letters: Filter(ids=[letters[0].id]), {"db_1"}),
    (lambda letters: Filter(ids=[letters[0].id, letters[2].id]), {"db_1", "db_3"}),
    (lambda _: Filter(installation_id="icfg_2"), {"db_3", "db_1 "}),
    (lambda _: Filter(resource_id="db_1"), {"db_1"}),  # compared byte by byte
    (lambda _: Filter(resource_id="DB_1"), set()),
    (lambda _: Filter(reason=DeadLetterReason.REJECTED), {"db_1", "db_2", "db_3", "db_1 "}),
    (lambda _: Filter(reason=DeadLetterReason.GONE), set()),
    (lambda letters: Filter(since=letters[2].died_at), {"db_3", "db_1 "}),
    (lambda _: Filter(installation_id=ID, resource_id="db_3"), set()),
    (lambda letters: Filter(before=letters[1].id), {"db_1"}),
    (lambda _: Filter(status=NO_STATUS), {"db_1", "db_2", "db_3", "db_1 "}),
    (lambda _: Filter(status=400), set()),
    (lambda _: Filter(error_prefix=NO_ERROR), {"db_1", "db_2", "db_3", "db_1 "}),
    (lambda _: Filter(error_prefix="n"), set()),
]


def test_a_filter_selects_the_dead_letters_that_meet_all_its_conditions(database: Database, partner: Engine) -> None:
    for resources, installation_id in ((["db_1"], ID), (["db_2"], ID), (["db_3", "db_1 "], "icfg_2")):
        die(database, partner, *resources, installation_id=installation_id)
    letters = list_dead_letters(database, Filter(), 9)[::-1]
    letters.sort(key=lambda letter: (letter.died_at, letter.resource_id == "db_1 "))
    for choose, chosen in CHOICES:
        wanted = choose(letters)
        listed = list_dead_letters(database, wanted, 9)
        assert {letter.resource_id for letter in listed} == chosen, wanted
        assert plan(database, wanted).dead_letters == len(chosen), wanted
    assert discard(database, Filter(resource_id="db_1")) == 1
    assert resolutions(database).count("discarded") == 1


ERRORS = ("Plan é_1 ", "Plan é_2", "plan é_3", "Plan e_4", "Plan é", "Plan éx1", "%_\\", "", None)
PREFIXES: dict[str, set[str | None]] = {
    "Plan é_": {"Plan é_1 ", "Plan é_2"},
    "Plan é_1 ": {"Plan é_1 "},
    "Plan é ": set(),
    "Plan ": {"Plan é_1 ", "Plan é_2", "Plan e_4", "Plan é", "Plan éx1"},
    "%_\\": {"%_\\"},
    "%": {"%_\\"},
    NO_ERROR: {"", None},
}


@pytest.mark.varies
def test_a_prefix_selects_the_errors_that_begin_with_exactly_this_text(database: Database) -> None:
    for error in ERRORS:
        bury_malformed(database, error)
    found = {prefix: list_dead_letters(database, Filter(error_prefix=prefix), 99) for prefix in PREFIXES}
    assert {prefix: {letter.last_error for letter in letters} for prefix, letters in found.items()} == PREFIXES
    assert {prefix: plan(database, Filter(error_prefix=prefix)).dead_letters for prefix in PREFIXES} == {
        prefix: len(errors) for prefix, errors in PREFIXES.items()
    }
    assert discard(database, Filter(error_prefix="Plan é_")) == 2


def test_a_list_holds_the_newest_up_to_its_limit(database: Database, partner: Engine) -> None:
    for resource in ("db_1", "db_2", "db_3"):
        die(database, partner, resource)
    discard(database, Filter(resource_id="db_3"))
    assert [letter.resource_id for letter in list_dead_letters(database, Filter(), 1)] == ["db_2"]
    assert len(list_dead_letters(database, Filter(), 9, resolved=True)) == 3


@pytest.mark.parametrize("resolved", [False, True])
def test_the_pages_of_a_list_hold_each_dead_letter_once(database: Database, partner: Engine, resolved: bool) -> None:
    for number in range(5):
        die(database, partner, f"db_{number}")
    discard(database, Filter(resource_id="db_3"))
    ids: list[int] = []
    before = 99
    while page := list_dead_letters(database, Filter(before=before), 2, resolved=resolved):
        ids += [letter.id for letter in page]
        before = ids[-1]
    assert ids == sorted(ids, reverse=True)
    assert len(ids) == (5 if resolved else 4)


@pytest.mark.parametrize(("oldest", "taken"), [(1, 1), (2, 2), (3, 3), (99, 3)])
@pytest.mark.parametrize("act", [dead_letters.replay, dead_letters.discard])
def test_a_plan_for_the_oldest_counts_what_is_then_taken(
    database: Database, partner: Engine, act: Callable[..., int], oldest: int, taken: int
) -> None:
    die(database, partner, "db_0", installation_id="icfg_0")
    for resource in ("db_1", "db_2", "db_3"):
        die(database, partner, resource)
    wanted = Filter(installation_id=ID)
    planned = plan(database, wanted, for_replay=act is dead_letters.replay, oldest=oldest)
    assert (planned.dead_letters, planned.malformed) == (taken, 0)
    assert act(database, wanted, planned.last_id, ANN, lambda _: None) == taken
    assert resolutions(database)[0] is None
    assert resolutions(database).count(None) == 4 - taken


def test_malformed_ones_are_not_among_the_oldest_that_are_replayed(database: Database, partner: Engine) -> None:
    assert plan(database, Filter(), for_replay=True, oldest=1) == Plan(0, 0, 0, 0, 0)
    bury_malformed(database)
    assert replace(plan(database, Filter(), for_replay=True, oldest=1), last_id=0) == Plan(1, 1, 0, 0, 0)
    die(database, partner, "db_1")
    bury_malformed(database)
    planned = plan(database, Filter(), for_replay=True, oldest=1)
    assert replace(planned, last_id=0) == Plan(2, 1, 1, 1, 0)
    assert dead_letters.replay(database, Filter(), planned.last_id, ANN, lambda _: None) == 1


@pytest.mark.parametrize("dead", [2, 3])
def test_chunks_leave_nothing_out_and_report_their_progress(database: Database, partner: Engine, dead: int) -> None:
    die(database, partner, *(f"db_{number}" for number in range(dead)))
    progress: list[int] = []
    until = plan(database, Filter()).last_id
    assert dead_letters.replay(database, Filter(), until, ANN, progress.append, chunk=2) == dead
    assert progress[-1] == dead
    assert len(progress) == (dead + 1) // 2
    assert len(deliver(database)) == dead


def test_a_dead_letter_made_after_the_plan_is_left_alone(database: Database, partner: Engine) -> None:
    die(database, partner, "db_1")
    planned = plan(database, Filter())
    die(database, partner, "db_2")
    assert dead_letters.discard(database, Filter(), planned.last_id, ANN, lambda _: None) == 1
    assert [letter.resource_id for letter in list_dead_letters(database, Filter(), 9)] == ["db_2"]


def test_a_plan_counts_rows_requests_and_the_busiest_installation(database: Database, partner: Engine) -> None:
    assert plan(database, Filter()) == Plan(0, 0, 0, 0, 0)
    die(database, partner, "db_1", "db_2")
    die(database, partner, "db_1")
    die(database, partner, "db_1", installation_id="icfg_2")
    planned = plan(database, Filter())
    assert replace(planned, last_id=0) == Plan(4, 0, 3, 2, 0)


def test_a_plan_counts_every_row_and_reads_a_limited_number_for_its_requests(
    database: Database, partner: Engine
) -> None:
    die(database, partner, "db_1", "db_2", "db_3")
    bury_malformed(database)
    whole = plan(database, Filter(), max_rows=4)
    assert replace(whole, last_id=0) == Plan(4, 1, 3, 3, 0)
    cut = plan(database, Filter(), max_rows=1)
    assert replace(cut, requests=3, busiest=3) == replace(whole, complete=False)
    assert cut.requests == cut.busiest <= 1


PACES = [(0, 0.0), (1, 0.0), (60, 0.0), (61, 60.0), (120, 60.0), (121, 120.0)]


@pytest.mark.parametrize(("requests", "seconds"), PACES)
def test_the_time_of_a_replay_is_that_of_its_busiest_installation(requests: int, seconds: float) -> None:
    minute = RateLimit(60, 60.0)
    planned = Plan(500, 0, requests, requests, 1)
    assert planned.seconds(minute, None) == planned.seconds(None, minute) == seconds
    assert planned.seconds(None, None) == 0.0


def test_a_dead_letter_is_shown_with_the_attempts_that_led_to_it(database: Database, partner: Engine) -> None:
    with partner.begin() as connection:
        write(connection, "db_1", "db_2")
    store.collect(database, 500)
    settle(database, *claim(database), decision=Decision(Action.RETRY, delay=-1))
    settle(database, *claim(database), decision=REJECTED)
    die(database, partner, "db_1")
    ids = {letter.id: letter for letter in list_dead_letters(database, Filter(resource_id="db_1"), 9)[::-1]}
    first, second = (find_dead_letter(database, id_) for id_ in ids)
    assert first is not None
    assert second is not None
    assert [(one.resource_id, one.attempt, one.decision) for one in first[1]] == [
        ("db_1", 1, "retry"),
        ("db_1", 2, "dead_letter"),
    ]
    assert [one.attempt for one in second[1]] == [1]
    assert find_dead_letter(database, 99) is None


def test_a_malformed_dead_letter_is_shown_without_attempts(database: Database) -> None:
    bury_malformed(database)
    (letter,) = list_dead_letters(database, Filter(), 9)
    assert find_dead_letter(database, letter.id) == (letter, [])


def test_a_dead_letter_of_an_installation_itself_shows_its_attempts(database: Database, partner: Engine) -> None:
    die_with_plan(database, partner, "pro")
    (letter,) = list_dead_letters(database, Filter(), 9)
    shown = find_dead_letter(database, letter.id)
    assert shown is not None
    assert [one.type for one in shown[1]] == ["installation.updated"]


def test_there_is_advice_for_every_reason() -> None:
    assert set(ADVICE) == set(DeadLetterReason)
