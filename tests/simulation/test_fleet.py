"""The simulation itself, small: it is repeatable, keeps the law and the limits, and notices when a guard is missing."""

import pytest
from pydantic import SecretStr

from dispatcher.policy.outcome import OutcomeKind
from dispatcher.settings.settings import Settings
from tests.simulation import scenarios
from tests.simulation.fleet import Fleet
from tests.simulation.report import share
from tests.simulation.scenarios import HOUR_SECONDS, SCENARIOS, SETTINGS
from tests.simulation.tables import Tables
from tests.simulation.vercel import LIMIT, Weather

LAST = 2.0 * HOUR_SECONDS
"""Everything is drained by then."""


def drain(dispatchers: int, *, weather: Weather = Weather(), large: int = 0, ones: int = 0, seed: int = 1) -> Fleet:  # noqa: B008 (frozen)
    """Commits the changes after a second: 150 for each large installation, one for each of the others."""
    fleet = Fleet(dispatchers, weather, settings=SETTINGS, installations=1_000, seed=seed)
    fleet.clock.run(1)
    fleet.change((f"large_{one}", f"{one}_{change}") for one in range(large) for change in range(150))
    fleet.change((f"one_{number}", str(number)) for number in range(ones))
    assert fleet.run_until_drained(1, LAST)
    return fleet


def last_wait(fleet: Fleet, kind: str) -> float:
    return max(fleet.ledger.delivered_at[kind]) - 1


def test_the_same_seed_gives_the_same_figures() -> None:
    one, same, other = (drain(3, ones=500, large=1, seed=seed) for seed in (1, 1, 2))
    assert (one.server.steps, one.vercel.requests) == (same.server.steps, same.vercel.requests)
    assert one.ledger == same.ledger
    assert one.ledger != other.ledger


@pytest.mark.parametrize("dispatchers", [1, 20])
def test_the_rate_limit_of_an_installation_holds_across_dispatchers(dispatchers: int) -> None:
    fleet = drain(dispatchers, large=3)
    assert fleet.vercel.most_in_window == LIMIT.requests
    assert fleet.vercel.outcomes[OutcomeKind.THROTTLED] == 0
    assert last_wait(fleet, "large") < 3 * LIMIT.seconds  # 60, 60 and 30 requests


def test_without_its_rate_limit_the_dispatcher_is_refused() -> None:
    unlimited = Settings(vercel_token=SecretStr("t0ken"), rate_limit=None)
    fleet = Fleet(2, Weather(), settings=unlimited, installations=1)
    fleet.change(("large_0", str(change)) for change in range(150))
    assert fleet.run_until_drained(1, LAST)
    assert fleet.vercel.outcomes[OutcomeKind.THROTTLED] > 0


def test_every_change_is_delivered_once_and_after_its_commit() -> None:
    fleet = drain(5, weather=Weather(outage=(0.0, 60.0)), ones=300, large=2)
    assert fleet.ledger.concluded == fleet.ledger.committed == 600
    assert (fleet.ledger.early, fleet.ledger.dead) == (0, 0)
    assert fleet.vercel.outcomes[OutcomeKind.DELIVERED] == 600


def change_one_subject_all_the_time() -> Fleet:
    fleet = Fleet(3, Weather(), settings=SETTINGS, installations=1)
    fleet.change_some(50.0, 0, 10)
    assert fleet.run_until_drained(10, LAST)
    return fleet


def test_a_change_during_the_request_is_followed_by_another_request() -> None:
    fleet = change_one_subject_all_the_time()
    assert fleet.ledger.early == 0
    assert fleet.vercel.most_in_window <= LIMIT.requests


def test_without_versions_a_change_during_the_request_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    end = Tables.end_collection

    def end_with_the_same_version(tables: Tables, *arguments: object) -> None:
        tables._version = 0
        end(tables, *arguments)  # type: ignore[arg-type]  # the same arguments

    monkeypatch.setattr(Tables, "end_collection", end_with_the_same_version)
    assert change_one_subject_all_the_time().ledger.early > 0


def test_large_installations_do_not_delay_the_others() -> None:
    alone, beside = (drain(4, ones=1_000, large=large) for large in (0, 20))
    # 1,200 requests of the large ones come first: as long as five dispatchers need for 2,200 requests, and no window of theirs longer.
    assert last_wait(beside, "one") < 3 * last_wait(alone, "one")
    assert last_wait(beside, "one") < LIMIT.seconds < last_wait(beside, "large")


def test_nothing_stays_queued() -> None:
    """A count that drifts would end in a dispatcher that claims nothing any more."""
    fleet = drain(2, large=30, ones=500)
    assert [dispatcher.queued for dispatcher in fleet.dispatchers] == [0, 0]


def test_who_waits_longer_is_served_earlier() -> None:
    fleet = drain(4, ones=2_000)
    waits = sorted(at - 1 for at in fleet.ledger.delivered_at["one"])
    assert waits[-1] < 3 * share(waits, 50)


def test_after_an_outage_each_dispatcher_starts_slowly() -> None:
    fleet = drain(2, weather=Weather(outage=(0.0, 120.0)), ones=5_000)
    first = next(second for second in range(120, 200) if fleet.vercel.requests[second] > 1)
    assert fleet.vercel.requests[first] <= 2 * 15  # 10 a second each, growing by half of it in the first one
    assert max(fleet.vercel.requests.values()) > 10 * fleet.vercel.requests[first]


def test_a_rotation_costs_one_refusal_for_each_installation_whose_token_was_kept() -> None:
    fleet = Fleet(
        1, Weather(rotation=30.0, rotation_known=30.0), settings=SETTINGS, installations=50, looks_tokens_up=True
    )
    for second in (1, 31):
        fleet.clock.run(second)
        fleet.change((f"one_{number}", str(number)) for number in range(50))
    assert fleet.run_until_drained(31, LAST)
    assert fleet.vercel.outcomes == {OutcomeKind.DELIVERED: 100, OutcomeKind.UNAUTHORIZED: 50}
    assert fleet.server.steps["look-up"] == 100


def test_tokens_that_come_late_pause_and_resume_their_installations() -> None:
    fleet = Fleet(
        2, Weather(rotation=0.0, rotation_known=200.0), settings=SETTINGS, installations=20, looks_tokens_up=True
    )
    fleet.change((f"one_{number}", str(number)) for number in range(20))
    assert fleet.run_until_drained(200, LAST)
    assert fleet.ledger.dead == 0
    assert fleet.vercel.outcomes[OutcomeKind.UNAUTHORIZED] >= 2 * 20  # each look at the same token is another request


@pytest.mark.nightly
@pytest.mark.timeout(600)
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_every_scenario_runs(scenario: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scenarios, "REPLICAS", (1, 10))
    table = SCENARIOS[scenario](0.01)
    assert {len(row) for row in table.rows} == {len(table.columns)}
