"""`dispatcher status` reports exactly what was seeded, on every database."""

import re
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from dispatcher.database.transactions import Database
from dispatcher.inspection.backlog import measure
from dispatcher.inspection.dead_letters import list_dead_letters
from dispatcher.inspection.graces import Graces
from dispatcher.inspection.installation_list import list_installations
from dispatcher.inspection.installations import Installation
from dispatcher.outbox.tables import attempt, installation
from dispatcher.policy.rate_window import RateWindow
from dispatcher.store.dead_letters import Filter
from tests.cli.conftest import Terminal
from tests.console.seeds import HOSTILE, MAX_ERROR_LENGTH, Seed, empty, healthy, troubled
from tests.console.steps import DISPATCHER

pytestmark = pytest.mark.xdist_group("console")  # in one process, which seeds once
GRACES = Graces(timedelta(days=1), timedelta(days=30))
Sow = Callable[[Seed], Database]


@pytest.mark.parametrize("server", ["sqlite", "postgresql", "mysql"], indirect=True)
def test_status_reports_the_trouble(database: Database, database_url: str, tmp_path: Path) -> None:
    troubled(database)
    (status,) = Terminal(tmp_path, {"database_url": database_url})("status", "--json").rows
    assert [(one["urgent"], re.sub(r"event \(.*", "event", one["what"])) for one in status["concerns"]] == [
        (True, "dead letters: 42 (38 rejected, 4 gone)"),
        (False, "the oldest event"),
        (False, "paused installations: 3 (1 no_credential, 1 operator, 1 unauthorized)"),
        (False, "failing in a row: icfg_12 7×, icfg_30 5×, icfg_2 1×"),
    ]
    assert status["backlog"] == {"outbox": 0, "due": 0, "waiting": 246, "paused": 86, "complete": True}
    assert [(one["name"], one["is_running"]) for one in status["dispatchers"]] == [(DISPATCHER, True)]
    assert (status["installations"], status["leases"]) == (13, {"held": 0, "expired": 0, "holders": []})
    assert status["recent"]["outcomes"].keys() >= {"delivered", "throttled", "rejected"}
    assert measure(database).open_breakers == 2


def test_installations_are_paused_and_throttled(sow: Sow) -> None:
    database = sow(troubled)
    ones = {one.installation_id: one for one in list_installations(database, GRACES, 99)}
    paused = {id_: one for id_, one in ones.items() if one.pause_reason}
    assert {id_: one.deliveries for id_, one in paused.items()} == {"icfg_9": 12, "icfg_4": 70, "icfg_7": 4}
    # The seeds were sown at the start of the tests, which may be an hour ago.
    assert [2.2 < hours_left(paused["icfg_9"]) <= 3.2, 21 < hours_left(paused["icfg_4"]) <= 22] == [True, True]
    assert paused["icfg_7"].dies_at is None
    assert (ones["icfg_7"].paused_by, HOSTILE[1] in str(ones["icfg_7"].pause_note)) == ("anna", True)
    assert (ones["icfg_2"].state, ones["icfg_2"].deliveries) == ("throttled", 240)


def hours_left(paused: Installation) -> float:
    assert paused.dies_at is not None
    return (paused.dies_at - paused.now).total_seconds() / 3_600


def test_19_of_60_places_in_the_rate_window_are_free(sow: Sow) -> None:
    database = sow(troubled)
    with database.read() as connection:
        throttled = sa.select(installation.c.rate_window).where(installation.c.installation_id == "icfg_2")
        window = RateWindow(60, 60.0, connection.execute(throttled).scalar_one())
    now = database.now().timestamp()
    assert [window.take(now) for _ in range(20)] == [True] * 19 + [False]


def test_the_dead_letters_have_three_causes_and_hostile_texts(sow: Sow) -> None:
    letters = list_dead_letters(sow(troubled), Filter(), 99, resolved=True)
    causes = Counter((one.reason, one.last_status) for one in letters if one.resolution is None)
    assert causes == {("rejected", 400): 31, ("rejected", 422): 7, ("gone", 404): 4}
    resolved = Counter((one.resolution, one.resolved_by) for one in letters if one.resolution is not None)
    assert resolved == {("replayed", "anna"): 3, ("discarded", "ben"): 2, ("superseded", None): 1}
    errors = [str(one.last_error) for one in letters]
    assert all(any(text[:1_000] in error for error in errors) for text in HOSTILE)
    assert max(map(len, errors)) == MAX_ERROR_LENGTH


@pytest.mark.parametrize("seed", [healthy, troubled])
def test_an_hour_of_requests_has_every_outcome_in_the_order_of_time(sow: Sow, seed: Seed) -> None:
    database = sow(seed)
    with database.read() as connection:
        rows = connection.execute(sa.select(attempt).order_by(attempt.c.id)).all()
    assert [row.at for row in rows] == sorted(row.at for row in rows)
    recent = [row for row in rows if row.at > database.now() - timedelta(minutes=62)]
    assert len(recent) > 400
    assert {row.outcome for row in recent} >= {"delivered", "failed", "throttled", "timeout"}
    assert max(row.events for row in recent) >= 27


@pytest.mark.parametrize("seed", [empty, healthy])
def test_the_other_seeds_give_no_concern(sow: Sow, seed: Seed, tmp_path: Path) -> None:
    sow(seed)
    (status,) = Terminal(tmp_path)("status", "--json").rows
    assert status["concerns"] == []
    assert (status["last_request"] is None) is (seed is empty)
    assert [one["is_running"] for one in status["dispatchers"]] == [True]
