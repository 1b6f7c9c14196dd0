"""One installation in detail: its state, its rate window, and its first deliveries with what happens to them next."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, Row

from dispatcher.database.transactions import Database
from dispatcher.inspection.deliveries import WaitingDelivery
from dispatcher.inspection.dispatchers import read_fleet
from dispatcher.inspection.graces import Graces
from dispatcher.inspection.installations import Installation, find_installations
from dispatcher.outbox.columns import is_exactly
from dispatcher.outbox.tables import attempt, delivery, installation
from dispatcher.policy.decision import Action, PauseReason
from dispatcher.policy.installation_breaker import InstallationBreaker
from dispatcher.policy.rate_window import RateLimit, RateWindow

MAX_COUNTED_DELIVERIES = 100_000
"""At most this many deliveries of the installation are counted."""
PAUSE_ADVICE: Mapping[PauseReason, str] = {
    PauseReason.UNAUTHORIZED: "Vercel refuses the installation's token: store a working one where the DISPATCHER_… settings look for it,"
    " then resume it, or wait for the next probe. If the customer has uninstalled the integration, purge it.",
    PauseReason.DISABLED: "The integration has been disabled at Vercel: once it is enabled again, the next probe succeeds. If the"
    " customer has uninstalled it, purge the installation.",
    PauseReason.NO_CREDENTIAL: "No token is known for the installation: store one where the DISPATCHER_… settings look for it,"
    " then resume it, or wait for the next probe.",
    PauseReason.OPERATOR: "Nothing is sent until a person resumes it. Its events are kept, and none becomes a dead letter.",
}
"""How an operator ends a pause for each reason."""


@dataclass(frozen=True, slots=True)
class RateUse:
    """The use of an installation's rate window."""

    used: int
    limit: int
    window: float
    """In seconds."""
    next_in: float
    """Seconds until the next request may start; 0 if it may now."""
    backlog: float
    """Seconds that it takes at least until the last of the waiting deliveries may be sent."""


@dataclass(frozen=True, slots=True)
class InstallationDetail:
    """Everything that decides when the installation's deliveries are sent."""

    installation: Installation
    waiting: int
    """Its deliveries; a lower bound if `MAX_COUNTED_DELIVERIES`."""
    faults: int
    """Requests in a row that failed because of Vercel or the network."""
    is_breaker_open: bool
    """Whether only one probe at a time is sent, because of these faults."""
    throttled_by: str | None
    """Why it is throttled, if its newest request says so: `rate_limited`, `credentials_unavailable` or `outage`."""
    rate: RateUse | None
    """None if the rate is not limited, or if the stored window cannot be read."""
    deliveries: list[WaitingDelivery]
    """The first ones to become due."""


def find_installation(
    database: Database, installation_id: str, graces: Graces, rate: RateLimit | None, limit: int
) -> InstallationDetail | None:
    """Returns the installation with the first `limit` of its deliveries; None if nothing has been collected for it."""
    with database.read() as connection:
        owner = find_installations(connection, database, graces, [installation_id]).get(installation_id)
        if owner is None:
            return None
        stored = connection.execute(
            sa.select(installation.c.faults, installation.c.rate_window).where(
                is_exactly(installation.c.installation_id, installation_id)
            )
        ).one()
        waiting = _count(connection, installation_id)
        fleet = read_fleet(database, connection, owner.now)
        return InstallationDetail(
            owner,
            waiting,
            stored.faults,
            InstallationBreaker(owner.failures, stored.faults).is_open,
            _throttled_by(connection, owner),
            _rate_use(stored.rate_window, rate, owner.now, waiting),
            [WaitingDelivery.of(row, owner, owner.now, fleet) for row in _first(connection, installation_id, limit)],
        )


def _count(connection: Connection, installation_id: str) -> int:
    rows = sa.select(delivery.c.due_at).where(is_exactly(delivery.c.installation_id, installation_id))
    counted = sa.select(sa.func.count()).select_from(rows.limit(MAX_COUNTED_DELIVERIES).subquery())
    return int(connection.execute(counted).scalar_one())


def _first(connection: Connection, installation_id: str, limit: int) -> Sequence[Row[Any]]:
    rows = sa.select(delivery).where(is_exactly(delivery.c.installation_id, installation_id))
    return connection.execute(rows.order_by(delivery.c.due_at).limit(limit)).all()


def _throttled_by(connection: Connection, owner: Installation) -> str | None:
    if owner.throttled_until is None or owner.throttled_until <= owner.now:
        return None
    of_it = is_exactly(attempt.c.installation_id, owner.installation_id)
    newest = sa.select(attempt.c.decision, attempt.c.reason).where(of_it).order_by(attempt.c.id.desc()).limit(1)
    row = connection.execute(newest).one_or_none()
    return row.reason if row is not None and row.decision == Action.THROTTLE else None


def _rate_use(stored: str | None, limit: RateLimit | None, now: datetime, waiting: int) -> RateUse | None:
    if limit is None:
        return None
    at = now.timestamp()
    try:
        window = RateWindow(limit.requests, limit.seconds, stored)
        backlog = window.wait(at, waiting) if waiting else 0.0
        return RateUse(window.used(at), limit.requests, limit.seconds, window.wait(at), backlog)
    except (TypeError, ValueError):  # somebody has written into the row
        return None
