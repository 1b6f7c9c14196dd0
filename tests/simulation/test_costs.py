"""The round trips of the steps that `tests/contract/test_round_trips.py` does not count."""

from datetime import timedelta

import sqlalchemy as sa
from sqlalchemy import Engine

from dispatcher import store
from dispatcher.database.transactions import Database, open_database
from dispatcher.inspection.backlog import measure
from dispatcher.outbox.tables import collector
from dispatcher.policy.decision import Action, Decision, ThrottleReason
from dispatcher.policy.outcome import Outcome, OutcomeKind
from dispatcher.store import Answer, Heartbeat, InstallationState, Leased
from tests.contract.databases import on_postgresql
from tests.contract.proxy import proxy_before
from tests.contract.steps import DELIVERED, LEASE, claim, write
from tests.contract.test_round_trips import counted
from tests.simulation.costs import LOOK, ROUND_TRIPS, settle

PUT_OFF = Decision(Action.THROTTLE, ThrottleReason.OUTAGE, 5.0)


def settle_all(database: Database, leased: tuple[Leased, ...], decision: Decision | None, *, release: bool) -> None:
    kind = OutcomeKind.DELIVERED if decision is DELIVERED else OutcomeKind.FAILED
    answers = [
        Answer(one, lease.token, Outcome(kind), decision) for lease in leased for one in lease.deliveries if decision
    ]
    states = [InstallationState(lease.installation_id, lease.token, failures=1, release=release) for lease in leased]
    store.settle(database, answers, states, LEASE)


@on_postgresql
def test_the_lesser_steps_take_the_round_trips_that_the_simulation_counts(database: Database, partner: Engine) -> None:
    with proxy_before(database.engine.url) as (proxy, url):
        behind = open_database(url.render_as_string(hide_password=False), database.schema)
        assert behind.is_cluster() is False  # connects
        store.collect(behind, 9)  # learns what the tables lack
        taken: dict[str, int] = {}
        _, taken["empty collect"] = counted(proxy, lambda: store.collect(behind, 9))
        _, taken["claim"] = counted(proxy, lambda: claim(behind))
        with database.engine.begin() as other:
            other.execute(sa.select(collector).with_for_update())
            _, taken["skipped collect"] = counted(proxy, lambda: store.collect(behind, 9))
        with partner.begin() as connection:
            write(connection, "db_1", "db_2")
        store.collect(behind, 9, store.LOWEST_ID, timedelta())
        leased = claim(behind)
        tokens = {lease.installation_id: lease.token for lease in leased}
        _, taken["pull"] = counted(proxy, lambda: store.pull(behind, tokens, 9, LEASE))
        _, taken["renew"] = counted(proxy, lambda: store.renew(behind, tokens, LEASE))
        _, taken["gauge"] = counted(proxy, lambda: measure(behind))
        beat = Heartbeat("one", "1", 0, is_outage=False, is_first=False)
        store.beat(behind, beat)
        _, taken["beat"] = counted(proxy, lambda: store.beat(behind, beat))
        assert taken == {step: ROUND_TRIPS[step] for step in taken}
        for decision, release in ((PUT_OFF, False), (DELIVERED, False), (None, True)):
            _, round_trips = counted(proxy, lambda: settle_all(behind, leased, decision, release=release))  # noqa: B023 (called at once)
            assert round_trips == settle(2, 1, any_delivered=decision is DELIVERED, any_released=release).round_trips
        behind.close()
    assert LOOK.round_trips == ROUND_TRIPS["look"]
