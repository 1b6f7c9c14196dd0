"""A worker carries out the removal of an installation: nothing more is sent for it, and its lease is dropped."""

from collections import deque
from datetime import timedelta
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from pydantic import SecretStr

from dispatcher import InstallationRemoved, publish, store
from dispatcher.database.transactions import Database
from dispatcher.outbox.tables import dead_letter, delivery, installation, outbox
from dispatcher.policy.decision import PauseReason
from dispatcher.settings.settings import Settings
from dispatcher.store import Removal, Removed
from dispatcher.telemetry import EventsCollected, InstallationForgotten, InstallationPaused, LeaseLost
from dispatcher.worker.collection import MAX_COLLECT_SECONDS
from tests.worker.conftest import Held, Rig, answered, arrived

DENIED = 12
"""More steps than fit into three collections."""


def uninstall(rig: Rig, installation_id: str = "icfg_1") -> None:
    with rig.database.engine.begin() as connection:
        publish(connection, InstallationRemoved(installation_id=installation_id))


def of(rig: Rig, kind: type) -> list[Any]:
    return [report for report in rig.reports if isinstance(report, kind)]


def resolutions(rig: Rig) -> list[tuple[str, str | None]]:
    return [(row.reason, row.resolved_by) for row in rig.rows(dead_letter)]


async def test_nothing_is_sent_for_a_removed_installation_and_it_is_reported(rig: Rig) -> None:
    rig.commit("db_1", "db_2")
    rig.commit("db_1", installation_id="icfg_2")
    uninstall(rig)
    await rig.settle_all()
    assert len(rig.requests) == 1
    assert of(rig, InstallationForgotten) == [InstallationForgotten("icfg_1", purged=2, resolved=0)]
    assert sum(report.events for report in of(rig, EventsCollected)) == 4
    assert [row.installation_id for row in rig.rows(installation)] == ["icfg_2"]
    assert (rig.rows(outbox), rig.rows(delivery)) == ([], [])
    assert resolutions(rig) == [("purged", "installation.removed")] * 2


async def test_an_event_after_the_removal_is_delivered(rig: Rig) -> None:
    rig.commit("db_1")
    uninstall(rig)
    rig.commit("db_2")
    await rig.settle_all()
    assert rig.bodies() == ["db_2"]
    assert [row.resource_id for row in rig.rows(dead_letter)] == ["db_1"]


async def test_the_answers_to_requests_in_flight_change_nothing(rig: Rig) -> None:
    held = Held(rig)
    rig.commit("db_1")
    await rig.worker.tick()
    await arrived(rig, 1)
    uninstall(rig)
    await rig.until(lambda: not rig.rows(outbox))
    assert rig.worker.idle
    held.release()
    await rig.settle_all()
    assert (rig.rows(installation), rig.rows(delivery)) == ([], [])
    assert resolutions(rig) == [("purged", "installation.removed")]
    assert of(rig, LeaseLost) == []


@pytest.mark.parametrize("settings", [Settings(vercel_token=SecretStr("t0ken"), concurrency=8, rate_limit=None)])
@pytest.mark.parametrize(("step", "changes", "answers"), [("settle", 1, 1), ("settle", 8, 1), ("pull", 20, 0)])
async def test_its_lease_may_be_dropped_during_a_step(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, step: str, changes: int, answers: int
) -> None:
    """A collection in another thread may drop it between the step's commit and what the worker makes of it."""
    held = Held(rig)
    rig.commit(*(f"db_{number}" for number in range(changes)))
    await rig.worker.tick()
    await arrived(rig, min(changes, rig.settings.concurrency))
    held.release(answers)
    await answered(rig, answers)
    (lease,) = rig.worker._leases.held.values()
    lease.until -= rig.settings.lease * 0.6
    take = getattr(store, step)

    def drop_meanwhile(*arguments: Any, **options: Any) -> Any:
        taken = take(*arguments, **options)
        rig.worker._leases.drop("icfg_1")
        return taken

    with monkeypatch.context() as patched:
        patched.setattr(store, step, drop_meanwhile)
        await rig.worker.tick()
    assert (rig.worker.idle, lease.queue, of(rig, LeaseLost)) == (True, deque(), [])
    held.release(changes)


async def test_another_worker_that_holds_the_lease_loses_it(rig: Rig) -> None:
    held = Held(rig)
    rig.commit("db_1")
    await rig.worker.tick()
    await arrived(rig, 1)
    uninstall(rig)
    other = rig.another("two")
    await rig.until(lambda: not rig.rows(outbox), other)
    held.release()
    await rig.settle_all()
    assert of(rig, LeaseLost) == [LeaseLost(1)]
    assert rig.rows(installation) == []
    await other.stop(0)
    other.close()


async def test_an_uninstalled_customer_whose_token_is_refused_is_forgotten(rig: Rig) -> None:
    rig.answer = lambda _request: httpx.Response(401)
    rig.commit("db_1")
    await rig.until(lambda: bool(of(rig, InstallationPaused)))
    assert of(rig, InstallationPaused)[0].reason is PauseReason.UNAUTHORIZED
    uninstall(rig)
    await rig.until(lambda: not rig.rows(outbox))
    assert rig.rows(installation) == []
    assert resolutions(rig) == [("purged", "installation.removed")]


@pytest.mark.parametrize("denied", [store.Removed(locked=True), store.Removed(purged=1)], ids=["locked", "endless"])
async def test_a_removal_that_cannot_be_completed_now_delays_no_other_event_and_is_tried_again(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, denied: Removed
) -> None:
    remove, tried = store.remove, []

    def deny(database: Database, removal: Removal) -> Removed:
        tried.append(removal)
        rig.now += MAX_COLLECT_SECONDS / 3  # no step of an endless removal is the last
        return remove(database, removal) if len(tried) > DENIED else denied

    monkeypatch.setattr(store, "remove", deny)
    worker = rig.another(clock=lambda: rig.now)
    rig.commit("db_1", installation_id="icfg_2")
    uninstall(rig)
    await rig.until(lambda: not rig.rows(delivery) and len(rig.requests) == 1, worker)
    assert len(tried) < DENIED
    await rig.until(lambda: not rig.rows(outbox), worker)
    await worker.stop(0)
    worker.close()


async def test_a_removal_that_the_database_refuses_fails_the_tick_and_stays(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> Removed:
        raise PermissionError("DELETE is denied")

    with monkeypatch.context() as patched:
        patched.setattr(store, "remove", refuse)
        uninstall(rig)
        with pytest.raises(PermissionError):
            await rig.worker.tick()
    await rig.until(lambda: not rig.rows(outbox))


async def test_a_worker_that_stops_begins_no_further_step(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[Removal] = []

    def stopping(_database: Database, removal: Removal) -> Removed:
        steps.append(removal)
        rig.worker._collection.stop()
        return Removed(purged=1)

    monkeypatch.setattr(store, "remove", stopping)
    uninstall(rig)
    await rig.worker.tick()
    assert len(steps) == 1


async def test_idle_installations_are_forgotten_by_the_housekeeping(rig: Rig) -> None:
    from dispatcher.service.housekeeping import Housekeeping

    rig.commit("db_1")
    rig.commit("db_1", installation_id="icfg_2")
    await rig.settle_all()
    week_ago = rig.database.now() - timedelta(seconds=rig.settings.attempt_retention)
    with rig.database.engine.begin() as connection:
        old = {"last_delivered_at": week_ago, "rate_window": None}
        connection.execute(sa.update(installation).where(installation.c.installation_id == "icfg_1").values(old))
    housekeeping = Housekeeping(rig.database, rig.worker, rig.settings, rig.reports.append)
    await housekeeping.prune()
    housekeeping.close()
    assert [row.installation_id for row in rig.rows(installation)] == ["icfg_2"]
