"""What became of replayed dead letters: delivered, waiting, dead again; on every database."""

from datetime import timedelta

import pytest
from sqlalchemy import Engine

from dispatcher import InstallationUpdated, publish, store
from dispatcher.database.transactions import Database
from dispatcher.inspection import aftermath as module
from dispatcher.inspection.aftermath import Aftermath, Replays, aftermath
from dispatcher.inspection.dead_letters import list_dead_letters, plan
from dispatcher.policy.decision import Action, Decision
from dispatcher.store import dead_letters, installations
from dispatcher.store.dead_letters import UNSIGNED, Filter, Signature
from tests.contract.steps import ID, REJECTED, claim, collect, deliver, settle

ANN = Signature("ann")
BACKOFF = Decision(Action.RETRY, delay=3_600.0)
EVERYTHING = Replays()


def die(database: Database, partner: Engine, *resources: str, installation_id: str = ID) -> None:
    collect(database, partner, *resources, installation_id=installation_id)
    settle(database, *claim(database), decision=REJECTED)


def replay(database: Database, wanted: Filter | None = None, signature: Signature = ANN) -> int:
    """Returns how many were replayed."""
    wanted = wanted or Filter()
    return dead_letters.replay(database, wanted, plan(database, wanted).last_id, signature, lambda _: None)


def newest_id(database: Database) -> int:
    return max(letter.id for letter in list_dead_letters(database, Filter(), 99, resolved=True))


def counts(found: Aftermath) -> tuple[int, int, int]:
    assert found.subjects == found.delivered + found.waiting + found.died_again
    return found.delivered, found.waiting, found.died_again


@pytest.mark.varies
def test_each_replayed_change_is_delivered_waits_or_has_died_again(database: Database, partner: Engine) -> None:
    for number in range(4):
        die(database, partner, f"db_{number}", installation_id=f"icfg_{number}")
    assert aftermath(database, EVERYTHING) == Aftermath(0, 0, 0, 0, 0, [], complete=True)
    assert replay(database, Filter(before=newest_id(database))) == 3
    assert counts(aftermath(database, EVERYTHING)) == (0, 3, 0)
    store.collect(database, 500)
    assert counts(aftermath(database, EVERYTHING)) == (0, 3, 0)
    delivered, rejected, failed = sorted(claim(database), key=lambda lease: lease.installation_id)
    settle(database, delivered)
    settle(database, rejected, decision=REJECTED)
    settle(database, failed, decision=BACKOFF)
    replay(database, Filter(installation_id="icfg_3"))
    assert aftermath(database, EVERYTHING) == Aftermath(4, 4, 1, 2, 1, [newest_id(database)], complete=True)


def test_it_tells_similar_ids_apart_and_follows_changes_of_installations(database: Database, partner: Engine) -> None:
    with partner.begin() as connection:
        publish(connection, InstallationUpdated(installation_id=ID, billing_plan_id="plan_é"))
    collect(database, partner, "db_1", "DB_1", "db_1 ", "db_é")
    settle(database, *claim(database), decision=REJECTED)
    assert replay(database) == 5
    assert counts(aftermath(database, EVERYTHING)) == (0, 5, 0)
    assert len(deliver(database)) == 5
    collect(database, partner, "db_1")
    assert counts(aftermath(database, EVERYTHING)) == (4, 1, 0)
    with partner.begin() as connection:
        publish(connection, InstallationUpdated(installation_id=ID))
    store.collect(database, 500)
    settle(database, *claim(database), decision=REJECTED)
    assert counts(aftermath(database, EVERYTHING)) == (3, 0, 2)


def test_one_that_died_again_stays_so_if_it_is_discarded_but_not_if_it_is_delivered(
    database: Database, partner: Engine
) -> None:
    die(database, partner, "db_1")
    die(database, partner, "db_2", installation_id="icfg_2")
    replay(database)
    store.collect(database, 500)
    settle(database, *claim(database), decision=REJECTED)
    wanted = Filter(installation_id=ID)
    dead_letters.discard(database, wanted, plan(database, wanted).last_id, UNSIGNED, lambda _: None)
    assert counts(aftermath(database, EVERYTHING)) == (0, 0, 2)
    collect(database, partner, "db_2", installation_id="icfg_2")
    assert counts(aftermath(database, EVERYTHING)) == (0, 0, 2)
    deliver(database)
    assert counts(aftermath(database, EVERYTHING)) == (1, 0, 1)


def test_one_that_was_replayed_twice_counts_once_since_the_last_time(database: Database, partner: Engine) -> None:
    die(database, partner, "db_1")
    replay(database)
    store.collect(database, 500)
    settle(database, *claim(database), decision=REJECTED)
    replay(database)
    assert aftermath(database, EVERYTHING) == Aftermath(2, 1, 0, 1, 0, [], complete=True)
    deliver(database)
    assert counts(aftermath(database, EVERYTHING)) == (1, 0, 0)


def test_older_dead_letters_of_the_same_resource_have_not_died_again(database: Database, partner: Engine) -> None:
    die(database, partner, "db_1")
    first = newest_id(database)
    die(database, partner, "db_1")
    replay(database, Filter(ids=[first]))
    assert counts(aftermath(database, EVERYTHING)) == (0, 1, 0)


def test_a_purge_of_what_was_replayed_is_no_delivery(database: Database, partner: Engine) -> None:
    die(database, partner, "db_1")
    replay(database)
    installations.purge(database, ID, lambda _: None)
    assert counts(aftermath(database, EVERYTHING)) == (0, 0, 1)


def test_the_filter_selects_the_replays(database: Database, partner: Engine) -> None:
    die(database, partner, "db_1", "db_2")
    die(database, partner, "db_3", installation_id="icfg_2")
    third = newest_id(database)
    replay(database, Filter(resource_id="db_1"), Signature("bob"))
    wanted = Filter(resource_id="db_2")
    dead_letters.discard(database, wanted, plan(database, wanted).last_id, ANN, lambda _: None)
    replay(database)
    now = database.now()
    for replays, followed in (
        (EVERYTHING, 2),
        (Replays(Filter(ids=[third])), 1),
        (Replays(Filter(installation_id=ID)), 1),
        (Replays(Filter(resource_id="db_2")), 0),
        (Replays(Filter(error_prefix="x")), 0),
        (Replays(by="bob"), 1),
        (Replays(by="bob "), 0),
        (Replays(since=now - timedelta(hours=1)), 2),
        (Replays(since=now + timedelta(hours=1)), 0),
        (Replays(Filter(installation_id=ID), now - timedelta(hours=1), "ann"), 0),
    ):
        assert aftermath(database, replays).dead_letters == followed, replays


def test_what_was_not_read_is_reported(database: Database, partner: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    die(database, partner, "db_1", "db_2", "db_3")
    replay(database)
    assert aftermath(database, EVERYTHING, limit=3, scan_limit=4).complete
    newest = aftermath(database, EVERYTHING, limit=2)
    assert (newest.dead_letters, newest.complete) == (2, False)
    assert not aftermath(database, EVERYTHING, scan_limit=3).complete  # the outbox may have more events
    deliver(database)
    assert aftermath(database, EVERYTHING, scan_limit=3).complete
    assert not aftermath(database, EVERYTHING, scan_limit=2).complete
    assert aftermath(database, Replays(Filter(installation_id=ID)), scan_limit=2).complete
    die(database, partner, "db_1", "db_2", "db_3")
    monkeypatch.setattr(module, "MAX_LISTED_IDS", 2)
    found = aftermath(database, EVERYTHING)
    assert found.died_again == 3
    assert found.dead_letter_ids == sorted(letter.id for letter in list_dead_letters(database, Filter(), 9))[:2]
