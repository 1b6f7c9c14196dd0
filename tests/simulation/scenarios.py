"""The scenarios: what is asked, for how many dispatchers, and what is printed. `size` is the fraction of the million installations."""

import math
from collections.abc import Callable, Sequence

from pydantic import SecretStr

from dispatcher.policy.outcome import OutcomeKind
from dispatcher.settings.settings import Settings
from tests.simulation.costs import CONNECTIONS, DATABASE_CORES
from tests.simulation.fleet import INSTALLATIONS, Fleet, per_second
from tests.simulation.report import Table, number, share, span
from tests.simulation.vercel import Weather

HOUR_SECONDS = 3_600
SHORT_OUTAGE_SECONDS = 180
"""So much of the hour's outage is simulated. In the rest of it nothing but what a minute shows would happen, and no gap, backoff or ramp
would grow any further; its changes are committed at once, in the middle."""
CHANGES_PER_SECOND = 70.0
"""Each of the million installations changes every four hours."""
REPLICAS = (1, 10, 30, 100, 300)
SETTINGS = Settings(vercel_token=SecretStr("t0ken"))
"""The defaults."""
Row = Sequence[str]


# idle and busy ────────────────────────────────────────────────────────────────────────────────────────────────────────


def idle(_size: float) -> Table:
    """Nothing changes."""
    columns = ("dispatchers", "connections", "round trips/s", "of these looks", "database cores")
    return Table("Nothing changes", columns, [_idle(replicas) for replicas in REPLICAS])


def _idle(replicas: int) -> Row:
    begin, end = 10, 70
    fleet = Fleet(replicas, Weather(), settings=SETTINGS)
    fleet.clock.run(begin)
    before = fleet.server.steps["look"]
    fleet.clock.run(end)
    looks = (fleet.server.steps["look"] - before) / (end - begin)
    return (
        str(replicas),
        str(replicas * CONNECTIONS),
        number(_round_trips(fleet, begin, end)),
        number(looks),
        number(_cores(fleet, begin, end)),
    )


def busy(size: float) -> Table:
    """Changes all the time."""
    columns = (
        "changes/s",
        "dispatchers",
        "round trips/s",
        "looks/s",
        "skipped collections/s",
        f"database cores of {DATABASE_CORES}",
        "change → answer: median",
        "99 %",
    )
    rows = [_busy(size, rate, replicas) for rate in (50.0, 1_000.0) for replicas in REPLICAS]
    return Table("Changes of installations drawn at random, all the time", columns, rows)


def _busy(size: float, rate: float, replicas: int) -> Row:
    begin, end = 5, 15
    fleet = Fleet(replicas, Weather(), settings=SETTINGS, installations=int(size * INSTALLATIONS))
    fleet.change_some(rate, 0, end)
    fleet.clock.run(begin)
    before = fleet.server.steps.copy()
    fleet.clock.run(end)
    steps = fleet.server.steps - before
    waits = _waits(fleet, "one")
    return (
        number(rate),
        str(replicas),
        number(_round_trips(fleet, begin, end)),
        number(steps["look"] / (end - begin)),
        number(steps["skipped collection"] / (end - begin)),
        number(_cores(fleet, begin, end)),
        span(share(waits, 50)),
        span(share(waits, 99)),
    )


# everyone at once ─────────────────────────────────────────────────────────────────────────────────────────────────────


def burst(size: float) -> Table:
    """Very many installations change at once."""
    columns = (
        "installations",
        "dispatchers",
        "drained after",
        "all collected after",
        "requests/s, busiest second",
        "database cores meanwhile",
        "skipped collections",
        "median wait",
    )
    cases = [(0.1, 10), (0.1, 30), (0.1, 100), (0.1, 300), (1.0, 100)]
    rows = [_burst(int(size * part * INSTALLATIONS), replicas) for part, replicas in cases]
    return Table("One transaction changes very many installations", columns, rows)


def _burst(number_of: int, replicas: int) -> Row:
    begin = 10
    fleet = Fleet(replicas, Weather(), settings=SETTINGS, installations=number_of)
    fleet.clock.run(begin)
    fleet.change((f"one_{number}", str(number)) for number in range(number_of))
    collected_at = 0.0
    while fleet.ledger.concluded < fleet.ledger.committed:
        fleet.clock.run(fleet.clock.now + 1)
        if not fleet.tables.in_outbox and not collected_at:
            collected_at = fleet.clock.now - begin
    waits = _waits(fleet, "one")
    _check(fleet)
    return (
        number(number_of),
        str(replicas),
        span(waits[-1]),
        span(collected_at),
        number(max(fleet.vercel.requests.values())),
        number(_cores(fleet, begin, begin + waits[-1])),
        number(fleet.server.steps["skipped collection"]),
        span(share(waits, 50)),
    )


# outage ───────────────────────────────────────────────────────────────────────────────────────────────────────────────


def outage(size: float) -> Table:
    """Vercel answers 503 for an hour."""
    columns = (
        "dispatchers",
        "Vercel then takes",
        "waiting",
        "probes/s meanwhile",
        "round trips/s meanwhile",
        "requests in second 1, 5, 10, 15, 20",
        "503s after it",
        "drained after",
        "wait after the outage: median",
        "99 %",
        "dead letters",
    )
    cases = [*((replicas, math.inf) for replicas in REPLICAS if replicas != 30), (300, 5_000.0)]
    rows = [_outage(size, replicas, capacity) for replicas, capacity in cases]
    return Table("An hour of 503s, 70 changes/s", columns, rows)


def _outage(size: float, replicas: int, capacity: float) -> Row:
    begin, end = 30, 30 + SHORT_OUTAGE_SECONDS
    fleet = Fleet(
        replicas,
        Weather(outage=(begin, end), capacity=capacity),
        settings=SETTINGS,
        installations=int(size * INSTALLATIONS),
    )
    fleet.change_some(size * CHANGES_PER_SECOND, 0, end)
    fleet.clock.run(begin + SHORT_OUTAGE_SECONDS / 2)
    fleet.change_many(int(size * CHANGES_PER_SECOND * (HOUR_SECONDS - SHORT_OUTAGE_SECONDS)))
    fleet.clock.run(end)
    waiting = fleet.ledger.committed - fleet.ledger.concluded
    steady = begin + 60  # by then every gap between probes has reached its longest
    probes = per_second(fleet.vercel.requests, steady, end)
    round_trips = _round_trips(fleet, steady, end)
    failed = fleet.vercel.outcomes[OutcomeKind.FAILED]
    fleet.run_until_drained(end, end + 3 * HOUR_SECONDS)
    _check(fleet)
    waits = sorted(at - end for at in fleet.ledger.delivered_at["one"] if at >= end)
    first = int(end + waits[0])
    recovery = (fleet.vercel.requests[first + second] for second in (0, 4, 9, 14, 19))
    return (
        str(replicas),
        "everything" if capacity == math.inf else f"{number(capacity)}/s",
        number(waiting),
        number(probes),
        number(round_trips),
        ", ".join(map(number, recovery)),
        number(fleet.vercel.outcomes[OutcomeKind.FAILED] - failed),
        span(waits[-1]),
        span(share(waits, 50)),
        span(share(waits, 99)),
        str(fleet.ledger.dead),
    )


# rotation ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def rotation(size: float) -> Table:
    """Every installation's token is replaced."""
    columns = (
        "dispatchers",
        "changes/s",
        "the partner's table has the new tokens after",
        "changes",
        "answers 401",
        "requests/s, busiest second",
        "look-ups",
        "wait after that: median",
        "99 %",
        "last",
    )
    cases = [(10, 70, 0), (10, 2, 600), (10, 2, HOUR_SECONDS)]
    return Table("All tokens are replaced", columns, [_rotation(size, *case) for case in cases])


def _rotation(size: float, replicas: int, rate: float, late: int) -> Row:
    begin = 60
    known = begin + late
    end = known + 300
    weather = Weather(rotation=begin, rotation_known=known)
    fleet = Fleet(replicas, weather, settings=SETTINGS, installations=int(size * INSTALLATIONS), looks_tokens_up=True)
    fleet.change_some(size * rate, 0, end)
    fleet.run_until_drained(end, end + 3 * HOUR_SECONDS)
    _check(fleet)
    changed, delivered = (fleet.ledger.changed_at["one"], fleet.ledger.delivered_at["one"])
    waits = sorted(at - max(since, known) for since, at in zip(changed, delivered, strict=True) if at >= known)
    return (
        str(replicas),
        number(rate),
        span(late) if late else "at once",
        number(fleet.ledger.committed),
        number(fleet.vercel.outcomes[OutcomeKind.UNAUTHORIZED]),
        number(max(fleet.vercel.requests.values())),
        number(fleet.server.steps["look-up"]),
        span(share(waits, 50)),
        span(share(waits, 99)),
        span(waits[-1]),
    )


# fairness ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def fairness(size: float) -> Table:
    """Installations with very many changes beside those with one."""
    columns = (
        "dispatchers",
        "installations with 600 changes",
        "with one change",
        "wait with one change: median",
        "99 %",
        "last",
        "the others' last",
        "their requests a minute, at most",
        "answers 429",
    )
    rows = [_fairness(size, replicas, large) for replicas in (1, 10) for large in (0, 100)]
    return Table("A few installations with many changes, committed first", columns, rows)


def _fairness(size: float, replicas: int, large: int) -> Row:
    begin, ones, large = 10, int(size * 50_000), int(size * large)
    fleet = Fleet(replicas, Weather(), settings=SETTINGS)
    fleet.clock.run(begin)
    fleet.change((f"large_{one}", f"{one}_{change}") for one in range(large) for change in range(600))
    fleet.change((f"one_{number}", str(number)) for number in range(ones))
    fleet.run_until_drained(begin, begin + 2 * HOUR_SECONDS)
    _check(fleet)
    waits, others = _waits(fleet, "one"), _waits(fleet, "large")
    return (
        str(replicas),
        number(large),
        number(ones),
        span(share(waits, 50)),
        span(share(waits, 99)),
        span(waits[-1]),
        span(others[-1]) if others else "–",
        str(fleet.vercel.most_in_window),
        str(fleet.vercel.outcomes[OutcomeKind.THROTTLED]),
    )


# figures ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _round_trips(fleet: Fleet, begin: float, end: float) -> float:
    return per_second(fleet.server.round_trips, begin, end)


def _cores(fleet: Fleet, begin: float, end: float) -> float:
    return per_second(fleet.server.busy, begin, end) / 1_000_000


def _waits(fleet: Fleet, kind: str) -> list[float]:
    ledger = fleet.ledger
    return sorted(at - since for since, at in zip(ledger.changed_at[kind], ledger.delivered_at[kind], strict=True))


def _check(fleet: Fleet) -> None:
    """The law, in every scenario."""
    assert fleet.ledger.concluded == fleet.ledger.committed, "not drained"
    assert fleet.ledger.early == 0, "a change was concluded by a request that began before its commit"


SCENARIOS: dict[str, Callable[[float], Table]] = {
    "idle": idle,
    "busy": busy,
    "burst": burst,
    "outage": outage,
    "rotation": rotation,
    "fairness": fairness,
}
