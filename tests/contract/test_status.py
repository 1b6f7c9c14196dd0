"""The readings of `dispatcher status`, on every database."""

from datetime import datetime, timedelta

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine

from dispatcher import store
from dispatcher.database.transactions import Database
from dispatcher.inspection.concerns import concerns
from dispatcher.inspection.status import Failing, Holder, Leases, read_status
from dispatcher.outbox.tables import attempt, dead_letter, delivery, dispatcher, installation
from dispatcher.policy.decision import Action, Decision
from dispatcher.policy.outcome import Outcome, OutcomeKind
from tests.contract.steps import LEASE, REJECTED, claim, deliver, expire_leases, settle, write


def collect(database: Database, partner: Engine, *resources: str, installation_id: str = "icfg_1") -> None:
    with partner.begin() as connection:
        write(connection, *resources, installation_id=installation_id)
    store.collect(database, 500)


def clock(database: Database) -> datetime:
    with database.read() as connection:
        now: datetime = connection.execute(sa.select(database.dialect.clock())).scalar_one()
    return now


def fail(database: Database, failures: int) -> None:
    """Fails everything that is due, and sets the number of failures in a row of its installation."""
    (leased,) = claim(database)
    outcome, retry = Outcome(OutcomeKind.FAILED, 503), Decision(Action.RETRY, delay=3_600.0)
    answers = [store.Answer(one, leased.token, outcome, retry) for one in leased.deliveries]
    state = store.InstallationState(leased.installation_id, leased.token, failures=failures, release=True)
    store.settle(database, answers, [state], LEASE)


def read_concerns(database: Database) -> list[tuple[bool, str]]:
    return [(concern.urgent, concern.what) for concern in concerns(read_status(database))]


@pytest.mark.varies
def test_an_empty_database_gives_no_concern(database: Database) -> None:
    reading = read_status(database)
    assert concerns(reading) == []
    assert (reading.last_request, reading.recent.requests, reading.recent.lag_max) == (None, 0, None)


def test_dead_letters_beyond_the_limit_are_not_silently_left_out(database: Database, partner: Engine) -> None:
    collect(database, partner, "db_1", "db_2")
    settle(database, *claim(database), decision=REJECTED)
    first, *_ = concerns(read_status(database, max_dead_letters=1))
    assert first.what == "dead letters: 1+ (1 rejected)"


@pytest.mark.varies
def test_rates_and_lag_are_those_of_recent_requests(database: Database, partner: Engine) -> None:
    collect(database, partner, "db_1", "db_2", "db_3")
    with database.engine.begin() as connection:
        old = delivery.c.resource_id == "db_1"
        connection.execute(
            sa.update(delivery).where(old).values(first_created_at=clock(database) - timedelta(minutes=2))
        )
    assert len(deliver(database)) == 3
    collect(database, partner, "db_4")
    fail(database, 1)
    reading = read_status(database)
    assert reading.recent.outcomes == {"delivered": 3, "failed": 1}
    assert reading.last_request is not None
    assert reading.last_request.age < 60
    assert (reading.last_request.outcome, reading.last_request.status) == ("failed", 503)
    assert reading.recent.lag_median is not None
    assert reading.recent.lag_median < 60
    assert reading.recent.lag_max is not None
    assert 120 <= reading.recent.lag_max < 180
    assert not [what for _, what in read_concerns(database) if "every recent request" in what]


def test_a_log_of_failures_only_is_not_taken_for_an_outage(database: Database, partner: Engine) -> None:
    collect(database, partner, "db_1")
    fail(database, 1)
    failing = "every recent request failed (1 failed)"
    assert failing in [concern.what for concern in concerns(read_status(database))]
    assert failing not in [concern.what for concern in concerns(read_status(database, logs_successes=False))]


def test_a_request_from_an_hour_ago_is_the_last_one_but_not_recent(database: Database, partner: Engine) -> None:
    collect(database, partner, "db_1")
    deliver(database)
    with database.engine.begin() as connection:
        connection.execute(sa.update(attempt).values(at=clock(database) - timedelta(hours=1)))
    reading = read_status(database)
    assert reading.recent.requests == 0
    assert reading.last_request is not None
    assert 3_600 <= reading.last_request.age < 3_700


@pytest.mark.varies
def test_the_installations_that_fail_most_are_named(database: Database, partner: Engine) -> None:
    for n in range(1, 8):
        collect(database, partner, "db_1", installation_id=f"icfg_{n}")
        fail(database, failures=n)
    reading = read_status(database)
    assert reading.failing == tuple(Failing(f"icfg_{n}", n) for n in (7, 6, 5, 4, 3))
    listed = read_concerns(database)
    assert listed[0] == (True, "every recent request failed (7 failed)")
    assert (False, "failing in a row: icfg_7 7×, icfg_6 6×, icfg_5 5×, icfg_4 4×, icfg_3 3×") in listed


def test_leases_are_held_or_expired(database: Database, partner: Engine) -> None:
    collect(database, partner, "db_1")
    claim(database)
    assert (read_status(database).leases.held, read_status(database).leases.expired) == (1, 0)
    expire_leases(database)
    assert (read_status(database).leases.held, read_status(database).leases.expired) == (0, 1)
    assert "leases that have expired: 1" in read_concerns(database)[-1][1]


@pytest.mark.varies
def test_leases_are_counted_by_their_holders_the_most_expired_first(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = clock(database)
    minute = timedelta(minutes=1)
    held = {"held_1": ("web-1", minute), "held_2": ("web-1", minute), "held_3": ("web-2", minute)}
    expired = {"lost_1": ("web-3", -minute), "lost_2": ("web-2", -minute), "lost_3": ("web-3", -minute)}
    with database.engine.begin() as connection:
        for id_, (name, left) in (held | expired).items():
            lease = {"lease_token": "t", "leased_by": name, "leased_until": now + left}
            connection.execute(sa.insert(installation).values(installation_id=id_, due_at=now, **lease))
    leases = read_status(database).leases
    assert (leases.held, leases.expired) == (3, 3)
    assert leases.holders == (Holder("web-3", 0, 2), Holder("web-2", 1, 1), Holder("web-1", 2, 0))
    monkeypatch.setattr(f"{read_status.__module__}.MAX_NAMED_HOLDERS", 1)
    assert read_status(database).leases == Leases(3, 3, (Holder("web-3", 0, 2),))


def test_dead_letters_come_first_and_pauses_after_them(database: Database, partner: Engine) -> None:
    collect(database, partner, "db_1", "db_2")
    settle(database, *claim(database), decision=REJECTED)
    collect(database, partner, "db_1", installation_id="icfg_2")
    later = clock(database) + timedelta(hours=1)
    with database.engine.begin() as connection:
        connection.execute(
            sa.update(installation).values(
                pause_reason="disabled", paused_since=later, paused_until=later, due_at=later
            )
        )
    listed = read_concerns(database)
    assert listed[0] == (True, "dead letters: 2 (2 rejected)")
    assert (False, "paused installations: 2 (2 disabled)") in listed
    assert [is_urgent for is_urgent, _ in listed] == sorted((is_urgent for is_urgent, _ in listed), reverse=True)


def bury(database: Database, reason: str) -> None:
    now = clock(database)
    row = {"events": 1, "first_event_id": 1, "last_event_id": 1, "attempts": 0, "first_created_at": now}
    with database.engine.begin() as connection:
        connection.execute(sa.insert(dead_letter).values(died_at=now, reason=reason, **row))


def test_what_a_person_or_a_customer_gave_up_is_no_problem(database: Database) -> None:
    bury(database, "purged")
    assert read_concerns(database) == []
    bury(database, "disabled")
    assert read_concerns(database) == [(False, "dead letters of disabled integrations: 1")]
    bury(database, "gone")
    assert read_concerns(database)[0] == (True, "dead letters: 1 (1 gone)")


@pytest.mark.parametrize(
    ("refused", "urgent"), [(["unauthorized", "no_credential"], True), (["unauthorized", "disabled"], False)]
)
def test_refused_tokens_of_most_installations_are_a_problem(
    database: Database, partner: Engine, refused: list[str], urgent: bool
) -> None:
    for n in range(3):
        collect(database, partner, "db_1", installation_id=f"icfg_{n}")
    later = clock(database) + timedelta(hours=1)
    with database.engine.begin() as connection:
        for n, reason in enumerate(refused):
            pause = {"pause_reason": reason, "paused_since": later, "paused_until": later, "due_at": later}
            connection.execute(
                sa.update(installation).where(installation.c.installation_id == f"icfg_{n}").values(pause)
            )
    problem = (True, "the tokens of 2 of 3 installations are refused or missing: is their source right?")
    assert (problem in read_concerns(database)) is urgent


def test_each_concern_names_a_command_without_a_placeholder(database: Database, partner: Engine) -> None:
    for n in (1, 2):
        collect(database, partner, "db_1", installation_id=f"icfg_{n}")
        fail(database, failures=n)
    with database.engine.begin() as connection:
        created = clock(database) - timedelta(minutes=5)
        connection.execute(
            sa.update(delivery).where(delivery.c.installation_id == "icfg_1").values(first_created_at=created)
        )
    bury(database, "gone")
    commands = {concern.what.split(" (")[0]: " ".join(concern.command) for concern in concerns(read_status(database))}
    assert commands == {
        "dead letters: 1": "dead-letters causes",
        "every recent request failed": "explain db_1 --installation icfg_2",
        "the oldest event": "explain db_1 --installation icfg_1",
        "failing in a row: icfg_2 2×, icfg_1 1×": "installations list --failing",
    }


@pytest.mark.parametrize(("minutes", "expected"), [(5, True), (0, False)])
def test_old_events_that_are_not_being_sent_are_urgent(
    database: Database, partner: Engine, minutes: int, expected: bool
) -> None:
    collect(database, partner, "db_1")
    with database.engine.begin() as connection:
        connection.execute(sa.update(delivery).values(first_created_at=clock(database) - timedelta(minutes=minutes)))
    assert any("nothing is being sent" in what for _, what in read_concerns(database)) is expected
    assert any("the oldest event" in what for _, what in read_concerns(database)) is expected


def test_silence_is_explained_by_what_runs(database: Database, partner: Engine) -> None:
    collect(database, partner, "db_1")
    fail(database, failures=1)
    collect(database, partner, "db_2")
    with database.engine.begin() as connection:
        long_ago = clock(database) - timedelta(minutes=10)
        connection.execute(sa.update(attempt).values(at=long_ago))
        connection.execute(sa.update(delivery).values(first_created_at=long_ago))
    silent = "events are waiting, and nothing is being sent: "
    assert read_concerns(database)[0] == (
        True,
        f"{silent}no dispatcher is running: start `dispatcher run`, or wait for the next `dispatcher drain`",
    )
    store.beat(database, store.Heartbeat("one", "1.0", 0, is_outage=False, is_first=True))
    running = f"{silent}a dispatcher is running, but makes no request: see its log"
    assert read_concerns(database)[0] == (True, running)
    assert running not in [concern.what for concern in concerns(read_status(database, logs_successes=False))]
    store.beat(database, store.Heartbeat("one", "1.0", 0, is_outage=True, is_first=False))
    (outage,) = (what for _, what in read_concerns(database) if what.startswith("Vercel has been unavailable since"))
    assert outage.endswith("for 1 of 1 dispatchers, so only probes are sent")
    assert not [what for _, what in read_concerns(database) if what.startswith(silent)]
    database.lacking = frozenset(dispatcher.c)
    assert read_concerns(database)[0] == (True, f"{silent}is `dispatcher run` running?")
