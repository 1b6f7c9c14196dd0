import pytest
import sqlalchemy as sa

from dispatcher.database.transactions import Database
from dispatcher.outbox.tables import outbox
from tests.cli.conftest import Terminal


def test_an_event_of_a_resource_is_in_the_outbox(dispatcher: Terminal, database: Database) -> None:
    ended = dispatcher("publish", "--installation", "icfg_1", "--resource", "Datenbank Ü", "--product", "pg")
    assert ended.code == 0
    assert ended.out == "event 1 is in the outbox: resource.updated Datenbank Ü\n"
    with database.read() as connection:
        row = connection.execute(sa.select(outbox)).one()
    assert tuple(row)[1:6] == ("icfg_1", "resource.updated", "Datenbank Ü", "pg", None)


def test_an_event_of_an_installation_carries_its_plan(dispatcher: Terminal, database: Database) -> None:
    ended = dispatcher("publish", "--installation", "icfg_1", "--plan", "pro", "--json")
    assert ended.rows == [
        {
            "id": 1,
            "installation_id": "icfg_1",
            "type": "installation.updated",
            "resource_id": None,
            "product_id": None,
            "billing_plan_id": "pro",
        }
    ]
    with database.read() as connection:
        assert connection.execute(sa.select(outbox.c.billing_plan_id)).scalars().all() == ["pro"]


def test_who_has_published_it_and_why_is_logged(dispatcher: Terminal) -> None:
    signed = ("--by", "ann", "--note", "forgotten\x1b[2J")
    ended = dispatcher("publish", "--installation", "icfg_1", "--resource", "db_1", *signed)
    assert ended.log == [
        {
            "event": "event published",
            "level": "info",
            "logger": "dispatcher",
            "event_id": 1,
            "installation_id": "icfg_1",
            "type": "resource.updated",
            "resource_id": "db_1",
            "by": "ann",
            "note": "forgotten\x1b[2J",
        }
    ]
    assert "\x1b" not in ended.err
    (line,) = dispatcher("publish", "--installation", "icfg_1").log
    assert "@" in line["by"]
    assert "note" not in line


def test_a_removal_is_written_by_hand(dispatcher: Terminal, database: Database) -> None:
    ended = dispatcher("publish", "--installation", "icfg_1", "--removed")
    assert (ended.code, ended.out) == (0, "event 1 is in the outbox: installation.removed icfg_1\n")
    with database.read() as connection:
        row = connection.execute(sa.select(outbox)).one()
    assert tuple(row)[1:6] == ("icfg_1", "installation.removed", None, None, None)


REFUSED = [
    pytest.param(["--installation", "icfg 1"], "--installation", id="installation id"),
    pytest.param(["--installation", "i", "--resource", ""], "--resource", id="empty resource id"),
    pytest.param(["--installation", "i", "--resource", "a\nb"], "--resource", id="line break"),
    pytest.param(["--installation", "i", "--product", "p"], "--product goes with --resource", id="product alone"),
    pytest.param(["--installation", "i", "--resource", "r", "--plan", "p"], "--plan goes without", id="plan too"),
    pytest.param(["--installation", "i", "--removed", "--resource", "r"], "--removed goes with", id="removed resource"),
    pytest.param(["--installation", "i", "--removed", "--plan", "p"], "--removed goes with", id="removed plan"),
    pytest.param(["--installation", "i i", "--removed"], "--installation", id="removed installation id"),
    pytest.param(["--installation", "i", "--note", "n" * 2_001], "--note is longer", id="long note"),
]


@pytest.mark.parametrize(("options", "text"), REFUSED)
def test_an_event_that_could_never_be_delivered_is_refused(
    dispatcher: Terminal, database: Database, options: list[str], text: str
) -> None:
    ended = dispatcher("publish", *options)
    assert ended.code == 2
    assert text in ended.complaint
    with database.read() as connection:
        assert connection.execute(sa.select(outbox.c.id)).all() == []
