"""An uninstall with real processes: the application's own INSERT is enough, whatever state the installation is in."""

import json

from tests.processes.conftest import Stage, on_every_database, wait_until

UNINSTALL = "INSERT INTO vercel_outbox (installation_id, type) VALUES ('icfg_1', 'installation.removed')"


def uninstall(stage: Stage) -> None:
    with stage.partner.begin() as connection:
        connection.exec_driver_sql(UNINSTALL)


def forgotten(stage: Stage) -> bool:
    tables = ("vercel_outbox", "vercel_delivery", "vercel_installation")
    return [stage.count(table) for table in tables] == [0, 0, 0]


@on_every_database
def test_after_an_uninstall_nothing_is_wrong(stage: Stage) -> None:
    stage.script(status=401)
    service = stage.start_service()
    stage.commit("db_1", "db_2")
    wait_until(lambda: stage.query("SELECT pause_reason FROM vercel_installation") == [("unauthorized",)])
    uninstall(stage)
    wait_until(lambda: forgotten(stage))
    wait_until(lambda: service.logged("installation removed"))
    removed = service.logged("installation removed") or {}
    assert (removed["installation_id"], removed["purged"], removed["level"]) == ("icfg_1", 2, "info")
    letters = "SELECT DISTINCT reason, resolution, resolved_by FROM vercel_dead_letter"
    assert stage.query(letters) == [("purged", "discarded", "installation.removed")]
    status = json.loads(stage.run("status", "--json").stdout)
    assert (status["dead_letters"], status["paused_installations"]) == ({}, {})
    assert stage.run("installations", "list").returncode == 3
    assert stage.run("dead-letters", "list").returncode == 3
    assert stage.metric("dispatcher_lease_lost_total 0.0")
    stage.ask(f"{stage.sandbox_url}/faults", "DELETE")
    at = stage.commit("db_3")  # the same id again
    wait_until(lambda: stage.received("db_3", at))


def test_an_answer_that_comes_after_the_uninstall_changes_nothing(stage: Stage) -> None:
    stage.script(status=401, delay=2)
    service = stage.start_service()
    stage.commit("db_1")
    wait_until(lambda: stage.requests(None) or stage.leased)
    uninstall(stage)
    wait_until(lambda: forgotten(stage))
    wait_until(lambda: stage.requests(401))
    wait_until(lambda: stage.metric("dispatcher_in_flight 0.0"))
    assert forgotten(stage)
    assert stage.query("SELECT reason FROM vercel_dead_letter WHERE resolved_at IS NULL") == []
    assert service.logged("installation paused") is None


def test_a_drain_carries_it_out(stage: Stage) -> None:
    stage.commit("db_1")
    uninstall(stage)
    drained = stage.run("drain", "--json")
    assert (drained.returncode, json.loads(drained.stdout)) == (
        0,
        {"events": 2, "requests": 0, "delivered": 0, "dead_lettered": 0, "waiting": 0},
    )
    assert forgotten(stage)
