"""What the steps cost: round trips as counted, processor time of the database as measured, and what had to be assumed."""

from typing import NamedTuple

from tests.contract.test_round_trips import TAKEN

ROUND_TRIPS = TAKEN["postgresql"] | {
    "empty collect": 3,
    "skipped collect": 3,
    "pull": 3,
    "renew": 2,
    "gauge": 12,
    "beat": 3,
}
"""`tests/contract/test_round_trips.py` counts the first four, `tests/simulation/test_costs.py` the others. A claim takes as many if it
finds nothing."""
SETTLEMENT_ROUND_TRIPS = 2
"""Those of a settlement that neither deletes a delivery nor gives a lease back; each of the two takes one more."""

LOOK_SECONDS = 0.000_16
EMPTY_STEP_SECONDS = 0.000_35
"""A collection or claim that finds nothing, or that another dispatcher's collection excludes."""
GAUGE_SECONDS = 0.002_5
BEAT_SECONDS = 0.000_5
"""The processor time of one backend of PostgreSQL 15 on the machine of `tests/benchmarks/README.md`, on 1 December 2026; so are those
below. They add up to 0.034 s for 1,000 events of 2,000 installations; the benchmark's 0.048 s also have the partner's INSERT in them."""
FULL_TABLES = {"collect": 1.3, "claim": 1.1, "settle": 1.5}
"""With a million waiting ÷ with empty tables (`tests/benchmarks/README.md`)."""

CONNECTIONS = 2
"""Of a running dispatcher (`deploy/databases.md`)."""
DATABASE_CORES = 8
"""Assumed."""
ROUND_TRIP_SECONDS = 0.000_5
"""Assumed: the same data centre."""
WORKER_STEP_SECONDS = 0.001
"""The worker's own part of a step: a look takes it more than a millisecond (`tests/benchmarks/README.md`)."""
REQUEST_SECONDS = (0.05, 0.15)
"""Assumed: the shortest and the longest request to Vercel; those between are equally likely."""


class Cost(NamedTuple):
    """What a step costs the database."""

    round_trips: int
    processor: float
    """In seconds."""


class _Measured(NamedTuple):
    """Seconds of processor time."""

    step: float
    row: float
    """For each event, delivery or answer."""
    installation: float


_COLLECT = _Measured(0.001_3, 0.000_011, 0.000_011)
_CLAIM = _Measured(0.000_55, 0.000_002, 0.000_007)
_SETTLE = _Measured(0.001_5, 0.000_013, 0.000_011)

LOOK = Cost(ROUND_TRIPS["look"], LOOK_SECONDS)
EMPTY_COLLECT = Cost(ROUND_TRIPS["empty collect"], EMPTY_STEP_SECONDS)
SKIPPED_COLLECT = Cost(ROUND_TRIPS["skipped collect"], EMPTY_STEP_SECONDS)
GAUGE = Cost(ROUND_TRIPS["gauge"], GAUGE_SECONDS)
BEAT = Cost(ROUND_TRIPS["beat"], BEAT_SECONDS)
LOOK_UP = Cost(1, LOOK_SECONDS)
"""Of a token, by `DISPATCHER_CREDENTIALS_QUERY`; assumed to cost as much as a look."""


def collect(events: int, installations: int) -> Cost:
    """Returns the cost of a collection."""
    return Cost(ROUND_TRIPS["collect"], _seconds("collect", _COLLECT, events, installations))


def claim(deliveries: int, installations: int) -> Cost:
    """Returns the cost of a claim."""
    seconds = _seconds("claim", _CLAIM, deliveries, installations) if installations else EMPTY_STEP_SECONDS
    return Cost(ROUND_TRIPS["claim"], seconds)


def pull(deliveries: int, installations: int) -> Cost:
    """Returns the cost of a pull, which reads as a claim does; measured for one delivery."""
    return Cost(ROUND_TRIPS["pull"], _seconds("claim", _CLAIM, deliveries, installations))


def renew(installations: int) -> Cost:
    """Returns the cost of renewing leases without reading deliveries."""
    return Cost(ROUND_TRIPS["renew"], _seconds("claim", _CLAIM, 0, installations))


def settle(answers: int, installations: int, *, any_delivered: bool, any_released: bool) -> Cost:
    """Returns the cost of a settlement."""
    round_trips = SETTLEMENT_ROUND_TRIPS + any_delivered + any_released
    return Cost(round_trips, _seconds("settle", _SETTLE, answers, installations))


def _seconds(step: str, measured: _Measured, rows: int, installations: int) -> float:
    return FULL_TABLES[step] * (measured.step + rows * measured.row + installations * measured.installation)
