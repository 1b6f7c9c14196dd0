"""What people did with dead letters is told from the database, on every database."""

from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine

from dispatcher.database.transactions import Database
from dispatcher.inspection.aftermath import Replays, aftermath
from dispatcher.inspection.dead_letters import list_dead_letters, plan
from dispatcher.inspection.resolution_groups import MAX_LISTED_IDS, ResolutionGroup, group_resolutions
from dispatcher.outbox.tables import dead_letter
from dispatcher.policy.decision import Resolution
from dispatcher.store import dead_letters, installations
from dispatcher.store.dead_letters import Filter, Signature
from tests.contract.steps import ID, REJECTED, claim, collect, deliver, settle

ANN, BOB = Signature("ann", "the plan exists now"), Signature("bob")
NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)


def die(database: Database, partner: Engine, *resources: str) -> int:
    """Returns the id of the newest dead letter."""
    collect(database, partner, *resources)
    settle(database, *claim(database), decision=REJECTED)
    return max(letter.id for letter in list_dead_letters(database, Filter(), 99))


def replay(database: Database, wanted: Filter, signature: Signature) -> None:
    dead_letters.replay(database, wanted, plan(database, wanted).last_id, signature, lambda _: None)


def discard(database: Database, wanted: Filter, signature: Signature) -> None:
    dead_letters.discard(database, wanted, plan(database, wanted).last_id, signature, lambda _: None)


def move(database: Database, id_: int, at: datetime) -> None:
    """Makes the dead letter resolved at this time."""
    with database.engine.begin() as connection:
        connection.execute(sa.update(dead_letter).where(dead_letter.c.id == id_).values(resolved_at=at))


@pytest.mark.varies
def test_they_are_grouped_by_minute_and_signature_newest_first(database: Database, partner: Engine) -> None:
    last = die(database, partner, *(f"db_{n}" for n in range(8)))
    first = last - 7
    replay(database, Filter(ids=[first, first + 1, first + 2]), ANN)
    replay(database, Filter(ids=[first + 3]), BOB)
    discard(database, Filter(ids=[first + 4, first + 5]), ANN)
    seconds = {0: 0, 1: 59.999999, 2: 60, 3: 30, 4: 30, 5: -0.000001}
    for n, after_noon in seconds.items():
        move(database, first + n, NOON + timedelta(seconds=after_noon))
    found = group_resolutions(database, 9)
    assert found.complete
    minute = timedelta(minutes=1)
    assert found.groups == [
        ResolutionGroup(NOON + minute, Resolution.REPLAYED, "ann", ANN.note, 1, [first + 2]),
        ResolutionGroup(NOON, Resolution.REPLAYED, "ann", ANN.note, 2, [first + 1, first]),
        ResolutionGroup(NOON, Resolution.DISCARDED, "ann", ANN.note, 1, [first + 4]),
        ResolutionGroup(NOON, Resolution.REPLAYED, "bob", None, 1, [first + 3]),
        ResolutionGroup(NOON - minute, Resolution.DISCARDED, "ann", ANN.note, 1, [first + 5]),
    ]
    assert group_resolutions(database, 2).groups == found.groups[:2]


def test_the_aftermath_of_a_group_is_that_of_its_minute_and_person(database: Database, partner: Engine) -> None:
    last = die(database, partner, "db_1", "db_2", "db_3")
    for id_, signature, at in ((last - 2, ANN, NOON), (last - 1, ANN, NOON + timedelta(minutes=1)), (last, BOB, NOON)):
        replay(database, Filter(ids=[id_]), signature)
        move(database, id_, at)
    for group in group_resolutions(database, 9).groups:
        followed = aftermath(database, Replays(since=group.minute, by=group.by, until=group.end))
        assert followed.dead_letters == group.dead_letters == 1
    assert aftermath(database, Replays(until=NOON)).dead_letters == 0


def test_what_the_dispatcher_resolved_by_itself_is_left_out(database: Database, partner: Engine) -> None:
    die(database, partner, "db_1")
    collect(database, partner, "db_1")
    deliver(database)
    assert group_resolutions(database, 9).groups == []
    collect(database, partner, "db_2")
    installations.purge(database, ID, lambda _: None, signature=ANN)
    (group,) = group_resolutions(database, 9).groups
    assert (group.resolution, group.by, group.is_replay) == ("discarded", "ann", False)


def test_a_limited_number_of_dead_letters_is_read_and_named(database: Database, partner: Engine) -> None:
    last = die(database, partner, *(f"db_{n}" for n in range(MAX_LISTED_IDS + 2)))
    discard(database, Filter(), ANN)
    (group,) = group_resolutions(database, 9).groups
    assert (group.dead_letters, len(group.ids), group.ids[0]) == (MAX_LISTED_IDS + 2, MAX_LISTED_IDS, last)
    found = group_resolutions(database, 9, scan_limit=MAX_LISTED_IDS + 2)
    assert (found.groups, found.complete) == ([group], True)
    found = group_resolutions(database, 9, scan_limit=3)
    assert (found.groups[0].dead_letters, found.complete) == (3, False)
