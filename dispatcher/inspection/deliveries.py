"""Deliveries as operators see them: what is waiting, for what, and the effect of a retry."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Row, Subquery, Table

from dispatcher.database.transactions import Database
from dispatcher.inspection.dispatchers import Fleet, read_fleet
from dispatcher.inspection.graces import Graces
from dispatcher.inspection.installations import Installation, find_installations
from dispatcher.inspection.outlook import look_ahead
from dispatcher.outbox.tables import delivery, installation
from dispatcher.policy.rate_window import RateLimit, seconds_for
from dispatcher.store.deliveries import DeliveryFilter

MAX_SCANNED_ROWS = 100_000
"""Deliveries that are read at most, where no index helps."""


@dataclass(frozen=True, slots=True)
class WaitingDelivery:
    """A row of `vercel_delivery`, and what happens to it next."""

    installation_id: str
    type: str
    resource_id: str | None
    product_id: str | None
    billing_plan_id: str | None
    events: int
    first_event_id: int
    last_event_id: int
    first_created_at: datetime
    attempts: int
    due_at: datetime
    last_status: int | None
    last_error: str | None
    next_at: datetime | None
    """When something happens next; None if no time is known."""
    next: str
    """What happens then."""

    @classmethod
    def of(cls, row: Row[Any], owner: Installation | None, now: datetime, fleet: Fleet | None) -> "WaitingDelivery":
        """Returns the row with its outlook; see `look_ahead`."""
        next_at, what = look_ahead(row, owner, now, fleet)
        return cls(**{name: getattr(row, name) for name in _COLUMNS}, next_at=next_at, next=what)


_COLUMNS = tuple(name for name in WaitingDelivery.__slots__ if name in delivery.c)


@dataclass(frozen=True, slots=True)
class Listing:
    """The deliveries that match, the longest waiting first."""

    deliveries: list[WaitingDelivery]
    complete: bool
    """Whether there are no others."""


@dataclass(frozen=True, slots=True)
class RetryPlan:
    """What a retry is about to do."""

    deliveries: int
    """Those that would be due later."""
    paused: int
    """Those of them whose installation is paused: they stay until it is resumed."""
    busiest: int
    """The largest number of the others for one installation."""

    @property
    def requests(self) -> int:
        """The requests that are sent: one for each delivery whose installation is not paused."""
        return self.deliveries - self.paused

    def seconds(self, rate: RateLimit | None, overall: RateLimit | None) -> float:
        """Returns how long the requests take within these rate limits if nothing else is sent."""
        return max(seconds_for(self.busiest, rate), seconds_for(self.requests, overall))


def list_deliveries(
    database: Database, wanted: DeliveryFilter, graces: Graces, limit: int, scan_limit: int = MAX_SCANNED_ROWS
) -> Listing:
    """Returns at most `limit` deliveries. Without an installation, only `scan_limit` deliveries are searched."""
    scanned: Table | Subquery = delivery
    if wanted.installation_id is None:
        scanned = sa.select(delivery).order_by(delivery.c.subject_key).limit(scan_limit).subquery()
    oldest = (
        sa.select(scanned)
        .where(*wanted.of(scanned))
        .order_by(scanned.c.first_created_at, scanned.c.first_event_id)
        .limit(limit + 1)
    )
    with database.read() as connection:
        now = connection.execute(sa.select(database.dialect.clock())).scalar_one()
        fleet = read_fleet(database, connection, now)
        rows = connection.execute(oldest).all()
        all_scanned = scanned is delivery or connection.execute(_beyond(scan_limit)).scalar() is None
        owners = find_installations(connection, database, graces, {row.installation_id for row in rows})
    found = [WaitingDelivery.of(row, owners.get(row.installation_id), now, fleet) for row in rows[:limit]]
    return Listing(found, all_scanned and len(rows) <= limit)


def _beyond(scan_limit: int) -> sa.Select[tuple[str]]:
    key = delivery.c.subject_key
    return sa.select(key).order_by(key).offset(scan_limit).limit(1)


def plan_retry(database: Database, wanted: DeliveryFilter) -> RetryPlan:
    """Counts the deliveries that a retry would make due now."""
    is_paused = sa.case((installation.c.pause_reason.is_not(None), 1), else_=0)
    owned = delivery.join(installation, installation.c.installation_id == delivery.c.installation_id, isouter=True)
    later = (delivery.c.due_at > database.dialect.clock(), *wanted.of())
    counted = sa.select(sa.func.count().label("deliveries"), is_paused.label("is_paused")).select_from(owned)
    of_each = counted.where(*later).group_by(delivery.c.installation_id, is_paused)
    with database.read() as connection:
        rows = connection.execute(of_each).all()
    sending = [row.deliveries for row in rows if not row.is_paused]
    return RetryPlan(
        sum(row.deliveries for row in rows),
        sum(row.deliveries for row in rows if row.is_paused),
        max(sending, default=0),
    )
