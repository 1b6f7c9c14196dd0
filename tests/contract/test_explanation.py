"""`dispatcher explain`: the history of a resource or an installation, on every database."""

from datetime import datetime, timedelta

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine

from dispatcher import InstallationRemoved, publish, store
from dispatcher.database.transactions import Database
from dispatcher.inspection.dead_letters import ADVICE, plan
from dispatcher.inspection.entries import Entry
from dispatcher.inspection.explanation import Explanation, explain
from dispatcher.outbox.tables import delivery, dispatcher, installation
from dispatcher.policy.decision import Action, DeadLetterReason, Decision
from dispatcher.policy.outcome import Outcome, OutcomeKind
from dispatcher.store import dead_letters, installations
from dispatcher.store.dead_letters import Filter, Signature
from tests.contract.databases import on_sqlite
from tests.contract.steps import GRACES, ID, LEASE, REJECTED, claim, deliver, settle, until, write

RETRY = Decision(Action.RETRY, delay=600)
UNAUTHORIZED = Decision(Action.PAUSE, DeadLetterReason.UNAUTHORIZED, 600)


def collect(database: Database, partner: Engine, *resources: str, installation_id: str = ID) -> None:
    with partner.begin() as connection:
        write(connection, *resources, installation_id=installation_id)
    store.collect(database, 500)


def let_the_clock_advance(database: Database) -> None:
    """Waits until the database's clock has advanced: SQLite's counts milliseconds."""
    now = database.now()
    until(lambda: database.now() > now)


@pytest.fixture(autouse=True)
def a_dispatcher_runs(database: Database) -> None:
    """Its heartbeat is there."""
    store.beat(database, store.Heartbeat("one", "1.0", 0, is_outage=False, is_first=True))


def make_wait(database: Database, failures: int) -> datetime:
    """Makes the installation wait for an hour after this many failures; returns until when."""
    later = database.now() + timedelta(hours=1)
    with database.engine.begin() as connection:
        connection.execute(sa.update(installation).values(throttled_until=later, due_at=later, failures=failures))
    return later


def explained(database: Database, name: str, limit: int = 99, installation_id: str | None = None) -> Explanation:
    found = explain(database, name, GRACES, limit, installation_id)
    assert found is not None
    return found


def kinds(entries: list[Entry]) -> list[str]:
    return [entry.what for entry in entries]


def the_next(database: Database, name: str = "db_1") -> Entry:
    (entry,) = explained(database, name).next
    return entry


@pytest.mark.varies
def test_the_whole_life_of_a_resource_in_the_order_of_time(database: Database, partner: Engine) -> None:
    collect(database, partner, "db_1", "db_1")
    settle(database, *claim(database), decision=Decision(Action.RETRY, delay=-1))
    settle(database, *claim(database), decision=REJECTED)
    until = plan(database, Filter()).last_id
    dead_letters.replay(database, Filter(), until, Signature("ann", "fixed"), lambda _: None)
    found = explained(database, "db_1")
    assert kinds(found.happened) == ["event", "attempt", "attempt", "dead_letter", "resolution", "event"]
    assert kinds(found.next) == ["next"]
    times = [entry.at for entry in found.happened if entry.at is not None]
    assert times == sorted(times)
    messages = [entry.message for entry in found.happened]
    assert messages[0] == "event 1 was written"
    assert "attempt 1 (2 events up to event 2): failed" in messages[1]
    assert "→ retry, due again at" in messages[1]
    assert "rejected, after 2 attempts" in messages[3]
    ids = [entry.dead_letter_id for entry in found.happened[3:5]]
    assert [message.startswith(f"dead letter {id_}") for message, id_ in zip(messages[3:5], ids, strict=True)] == [
        True
    ] * 2
    assert messages[4].endswith("was replayed by ann: fixed")
    assert deliver(database) == ["db_1"]
    found = explained(database, "db_1")
    assert (found.happened[-1].decision, found.next) == ("delivered", [])
    assert "(event 3): delivered in" in found.happened[-1].message
    assert found.complete


def test_a_delivery_that_starts_again_keeps_the_time_of_its_first_event(database: Database, partner: Engine) -> None:
    collect(database, partner, "db_1")
    leased = claim(database)
    let_the_clock_advance(database)
    collect(database, partner, "db_1")
    settle(database, *leased)
    happened = explained(database, "db_1").happened
    assert kinds(happened) == ["event", "attempt"]
    assert happened[0].at == leased[0].deliveries[0].first_created_at


def test_an_event_that_is_not_collected_yet_is_next(database: Database, partner: Engine) -> None:
    with partner.begin() as connection:
        write(connection, "db_1", "db_1", "db_2")
    found = explained(database, "db_1")
    assert [entry.message for entry in found.happened] == ["event 1 was written, and 1 more up to event 2"]
    assert [entry.message for entry in found.next] == [
        "2 events up to event 2: collected at the dispatcher's next tick"
    ]


def test_an_unknown_name_is_not_explained(database: Database, partner: Engine) -> None:
    collect(database, partner, "db_1")
    assert explain(database, "db_2", GRACES, 9) is None
    assert explain(database, "db_1 ", GRACES, 9) is None
    assert explain(database, "DB_1", GRACES, 9) is None
    assert explain(database, "db_1", GRACES, 9, "icfg_2") is None
    assert explain(database, "db_2", GRACES, 9, ID) is None


def test_the_explanation_of_an_installation_covers_all_its_resources(database: Database, partner: Engine) -> None:
    collect(database, partner, "db_1", "db_2")
    collect(database, partner, "db_1", installation_id="icfg_2")
    settle(database, *claim(database))
    found = explained(database, ID)
    assert {(entry.installation_id, entry.resource_id) for entry in found.happened} == {(ID, "db_1"), (ID, "db_2")}


def test_a_resource_of_one_installation_or_of_all(database: Database, partner: Engine) -> None:
    for id_ in (ID, "icfg_2"):
        collect(database, partner, "db_1", installation_id=id_)
    assert {entry.installation_id for entry in explained(database, "db_1").happened} == {ID, "icfg_2"}
    assert {entry.installation_id for entry in explained(database, "db_1", installation_id=ID).happened} == {ID}


def test_it_begins_with_what_it_is_about(database: Database, partner: Engine) -> None:
    for n in range(1, 7):
        collect(database, partner, "db_1", installation_id=f"icfg_{n}")
    with partner.begin() as connection:
        write(connection, "db_7", installation_id="icfg_7")
    assert explained(database, "icfg_1").about == "installation icfg_1"
    assert explained(database, "db_7").about == "resource db_7 of installation icfg_7"
    assert explained(database, "db_1", installation_id="icfg_2").about == "resource db_1 of installation icfg_2"
    assert (
        explained(database, "db_1").about
        == "resource db_1 of installations icfg_1, icfg_2, icfg_3, icfg_4, icfg_5 and 1 more"
    )


def test_an_attempt_is_told_in_words_with_the_id_that_vercel_gave_it(database: Database, partner: Engine) -> None:
    collect(database, partner, "db_1")
    (leased,) = claim(database)
    outcome = Outcome(OutcomeKind.NO_CREDENTIAL, vercel_id="fra1::abc")
    paused = Decision(Action.PAUSE, DeadLetterReason.NO_CREDENTIAL, 600)
    state = store.InstallationState(leased.installation_id, leased.token, release=True)
    store.settle(database, [store.Answer(leased.deliveries[0], leased.token, outcome, paused)], [state], LEASE)
    (attempt,) = [entry for entry in explained(database, "db_1").happened if entry.what == "attempt"]
    assert attempt.vercel_id == "fra1::abc"
    what = (
        "attempt 1 (event 1): no credential in 0 ms → the installation is paused (no credential) (vercel id fra1::abc)"
    )
    assert attempt.message == what


def test_a_known_installation_with_no_pending_work_is_explained(database: Database, partner: Engine) -> None:
    collect(database, partner, "db_1")
    deliver(database)
    installations.pause(database, ID, Signature("ann", "moves"))
    (pause,) = [one for one in explained(database, ID).happened if one.what == "pause"]
    assert pause.message == "the installation was paused: operator, by ann: moves"


def test_a_removal_that_is_not_carried_out_yet_is_explained(database: Database, partner: Engine) -> None:
    with partner.begin() as connection:
        publish(connection, InstallationRemoved(installation_id=ID))
    found = explained(database, ID)
    assert [one.message for one in (*found.happened, *found.next)] == [
        "event 1 was written: the installation was removed",
        "what was written before event 1 is purged at the dispatcher's next tick",
    ]
    assert {(one.installation_id, one.type) for one in (*found.happened, *found.next)} == {(ID, "installation.removed")}


def test_beyond_the_limit_only_the_newest_is_shown_and_it_is_incomplete(database: Database, partner: Engine) -> None:
    for _ in range(3):
        collect(database, partner, "db_1")
        deliver(database)
        let_the_clock_advance(database)
    found = explained(database, "db_1", limit=2)
    assert kinds(found.happened) == ["event", "attempt"]
    assert not found.complete
    assert found.happened[-1].at == explained(database, "db_1").happened[-1].at


# What happens next is decided without the database, so that one database is enough.


@on_sqlite
def test_a_delivery_that_is_due_is_claimed_next(database: Database, partner: Engine) -> None:
    collect(database, partner, "db_1")
    assert the_next(database).message == "attempt 1, as soon as a dispatcher claims it (event 1)"


@on_sqlite
def test_a_delivery_that_is_long_overdue_points_to_the_dispatcher(database: Database, partner: Engine) -> None:
    collect(database, partner, "db_1")
    with database.engine.begin() as connection:
        connection.execute(sa.update(delivery).values(due_at=database.now() - timedelta(hours=1)))
    assert the_next(database).message == "attempt 1 is overdue: see the dispatcher's log (event 1)"


@on_sqlite
def test_where_no_dispatcher_runs_nothing_is_promised(database: Database, partner: Engine) -> None:
    store.leave(database, "one")
    with partner.begin() as connection:
        write(connection, "db_1")
    assert the_next(database).message == "event 1: collected when a dispatcher is running: none is"
    store.collect(database, 500)
    found = the_next(database)
    assert (found.at, found.message) == (None, "attempt 1, when a dispatcher is running: none is (event 1)")


@on_sqlite
def test_it_says_that_vercel_is_unavailable_once_no_dispatcher_is_answered(database: Database, partner: Engine) -> None:
    collect(database, partner, "db_1")
    store.beat(database, store.Heartbeat("one", "1.0", 0, is_outage=True, is_first=False))
    store.beat(database, store.Heartbeat("two", "1.0", 0, is_outage=False, is_first=True))
    assert the_next(database).message == "attempt 1, as soon as a dispatcher claims it (event 1)"
    store.beat(database, store.Heartbeat("two", "1.0", 0, is_outage=True, is_first=False))
    with database.read() as connection:
        since = connection.execute(sa.select(sa.func.min(dispatcher.c.outage))).scalar_one()
    unavailable = f"it has been unavailable since {since:%Y-%m-%d %H:%M:%S} UTC"
    found = the_next(database)
    assert (found.at, found.message) == (None, f"attempt 1, when Vercel answers again: {unavailable} (event 1)")


@on_sqlite
def test_an_outage_begins_when_the_first_dispatcher_noticed_it(database: Database, partner: Engine) -> None:
    collect(database, partner, "db_1")
    store.beat(database, store.Heartbeat("one", "1.0", 0, is_outage=True, is_first=False))
    store.beat(database, store.Heartbeat("restarted", "1.0", 0, is_outage=True, is_first=True))
    began = database.now() - timedelta(hours=3)
    with database.engine.begin() as connection:
        connection.execute(sa.update(dispatcher).where(dispatcher.c.name == "one").values(outage=began))
    assert f"unavailable since {began:%Y-%m-%d %H:%M:%S} UTC" in the_next(database).message


@on_sqlite
def test_an_installation_that_waits_in_an_outage_waits_for_vercel(database: Database, partner: Engine) -> None:
    collect(database, partner, "db_1")
    later = make_wait(database, failures=3)
    store.beat(database, store.Heartbeat("one", "1.0", 0, is_outage=True, is_first=False))
    found = the_next(database)
    assert found.at == later
    assert found.message.startswith("attempt 1, when Vercel answers again")


@on_sqlite
def test_an_installation_that_waits_where_no_dispatcher_runs_waits_for_one(database: Database, partner: Engine) -> None:
    collect(database, partner, "db_1")
    later = make_wait(database, failures=0)
    store.leave(database, "one")
    found = the_next(database)
    assert (found.at, found.message) == (later, "attempt 1, when a dispatcher is running: none is (event 1)")


@on_sqlite
def test_an_older_schema_does_not_tell_whether_a_dispatcher_runs(database: Database, partner: Engine) -> None:
    collect(database, partner, "db_1")
    with database.engine.begin() as connection:
        connection.execute(sa.update(delivery).values(due_at=database.now() - timedelta(hours=1)))
    database.lacking = frozenset(dispatcher.c)
    assert the_next(database).message == "attempt 1 is overdue: is `dispatcher run` running? (event 1)"


@on_sqlite
def test_a_delivery_in_its_backoff_shows_the_time_of_its_next_attempt(database: Database, partner: Engine) -> None:
    collect(database, partner, "db_1")
    settle(database, *claim(database), decision=RETRY)
    found = the_next(database)
    assert found.at is not None
    assert timedelta(seconds=500) < found.at - database.now() <= timedelta(seconds=600)
    assert found.message.startswith("attempt 2, after the backoff")


@on_sqlite
def test_a_settle_delay_is_no_backoff(database: Database, partner: Engine) -> None:
    with partner.begin() as connection:
        write(connection, "db_1")
    store.collect(database, 500, settle_delay=timedelta(hours=1))
    assert the_next(database).message.startswith("attempt 1 (")


@on_sqlite
def test_a_delivery_under_a_lease_names_its_holder(database: Database, partner: Engine) -> None:
    collect(database, partner, "db_1")
    claim(database)
    assert "by test, which holds the lease" in the_next(database).message


@on_sqlite
def test_a_delivery_that_waits_for_the_rate_limit_shows_until_when(database: Database, partner: Engine) -> None:
    collect(database, partner, "db_1")
    later = make_wait(database, failures=0)
    found = the_next(database)
    assert (found.at, found.message) == (later, "attempt 1, when the rate limit allows it (event 1)")


@on_sqlite
@pytest.mark.parametrize(
    ("status", "why"),
    [
        (429, "when the rate limit allows it"),
        (503, "when its installation is tried again: the last request for it did not succeed"),
        (None, "when its installation is tried again: the last request for it did not succeed"),
    ],
)
def test_an_installation_that_waits_after_a_failure_does_not_blame_the_rate_limit(
    database: Database, partner: Engine, status: int | None, why: str
) -> None:
    collect(database, partner, "db_1")
    make_wait(database, failures=1)
    with database.engine.begin() as connection:
        connection.execute(sa.update(delivery).values(last_status=status))
    assert the_next(database).message == f"attempt 1, {why} (event 1)"


@on_sqlite
@pytest.mark.parametrize(("reason", "grace"), [("unauthorized", GRACES.auth), ("disabled", GRACES.disabled)])
def test_a_pause_shows_the_times_of_its_probe_and_of_its_end(
    database: Database, partner: Engine, reason: str, grace: timedelta
) -> None:
    collect(database, partner, "db_1")
    settle(database, *claim(database), decision=Decision(Action.PAUSE, DeadLetterReason(reason), 600))
    found = explained(database, "db_1")
    (pause,) = [entry for entry in found.happened if entry.what == "pause"]
    assert pause.at is not None
    assert pause.reason == reason
    (following,) = found.next
    assert following.at is not None
    assert following.at > database.now()
    assert f"{pause.at + grace:%Y-%m-%d %H:%M:%S} UTC" in following.message
    assert f"installations resume {ID}" in following.message


@on_sqlite
def test_an_operators_pause_lasts_until_it_is_resumed(database: Database, partner: Engine) -> None:
    collect(database, partner, "db_1")
    installations.pause(database, ID)
    found = the_next(database)
    assert found.at is None
    assert found.message.startswith(f"nothing is sent until `dispatcher installations resume {ID}`")


@on_sqlite
def test_an_unresolved_dead_letter_comes_with_advice(database: Database, partner: Engine) -> None:
    collect(database, partner, "db_1")
    settle(database, *claim(database), decision=REJECTED)
    assert ADVICE[DeadLetterReason.REJECTED] in the_next(database).message


def test_without_an_index_only_a_limited_number_of_rows_is_scanned(database: Database, partner: Engine) -> None:
    collect(database, partner, "db_1", "db_2")
    with partner.begin() as connection:
        write(connection, "db_1", "db_2", "db_2")
    assert explained(database, "db_1").complete
    found = explain(database, "db_1", GRACES, 99, scan_limit=1)
    assert found is not None
    assert not found.complete
    assert "event 3 was written" in [entry.message for entry in found.happened]


@on_sqlite
def test_a_row_that_can_never_be_a_request_is_explained(database: Database, partner: Engine) -> None:
    with partner.begin() as connection:
        connection.exec_driver_sql("PRAGMA ignore_check_constraints = 1")
        insert = "INSERT INTO vercel_outbox (installation_id, type, resource_id, product_id) VALUES (?, ?, ?, ?)"
        connection.exec_driver_sql(insert, (ID, "resource.updated", "db_1", b"\xff"))
    found = explained(database, "db_1")
    assert "can never become a request" in found.happened[0].message
    assert "becomes a dead letter" in found.next[0].message
    assert found.about == f"resource db_1 of installation {ID}"
    store.collect(database, 500)
    assert "malformed" in explained(database, "db_1").happened[0].message
