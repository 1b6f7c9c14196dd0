"""What happens next to a delivery, and when."""

from datetime import datetime
from http import HTTPStatus
from typing import Any

from sqlalchemy import Row

from dispatcher.inspection.dispatchers import Fleet
from dispatcher.inspection.installations import Installation
from dispatcher.store.sweep import OVERDUE


def look_ahead(
    delivery: Row[Any], owner: Installation | None, now: datetime, fleet: Fleet | None
) -> tuple[datetime | None, str]:
    """Returns when something happens to the delivery (None if no time is known), and what, given the state of its installation.

    `fleet`: the running dispatchers; None if they are not known.
    """
    attempt = f"attempt {delivery.attempts + 1}"
    if owner is not None and owner.pause_reason is not None:
        return _paused(owner)
    if owner is not None and owner.leased_until is not None and owner.leased_until > now:
        return delivery.due_at, f"{attempt}, by {owner.leased_by}, which holds the lease"
    earliest = _earliest(delivery, owner)
    if fleet is not None and not fleet.runs:
        return _still_ahead(earliest, now), f"{attempt}, when a dispatcher is running: none is"
    if fleet is not None and fleet.outage is not None:
        since = f"{fleet.outage:%Y-%m-%d %H:%M:%S} UTC"
        what = f"{attempt}, when Vercel answers again: it has been unavailable since {since}"
        return _still_ahead(earliest, now), what
    if owner is not None and earliest > max(now, delivery.due_at):
        return earliest, f"{attempt}, {_why_it_waits(delivery, owner)}"
    if delivery.due_at > now:
        return delivery.due_at, f"{attempt}, after the backoff" if delivery.attempts else f"{attempt}"
    if delivery.due_at > now - OVERDUE:
        return delivery.due_at, f"{attempt}, as soon as a dispatcher claims it"
    why = "is `dispatcher run` running?" if fleet is None else "see the dispatcher's log"
    return delivery.due_at, f"{attempt} is overdue: {why}"


def _earliest(delivery: Row[Any], owner: Installation | None) -> datetime:
    """Returns when the delivery is due and its installation need not wait."""
    due_at: datetime = delivery.due_at
    return due_at if owner is None or owner.throttled_until is None else max(due_at, owner.throttled_until)


def _still_ahead(time: datetime, now: datetime) -> datetime | None:
    return time if time > now else None


def _why_it_waits(delivery: Row[Any], owner: Installation) -> str:
    if owner.failures and delivery.last_status != HTTPStatus.TOO_MANY_REQUESTS:
        return "when its installation is tried again: the last request for it did not succeed"
    return "when the rate limit allows it"


def _paused(owner: Installation) -> tuple[datetime | None, str]:
    resume = f"`dispatcher installations resume {owner.installation_id}`"
    if owner.dies_at is None:
        return None, f"nothing is sent until {resume}"
    last = f"from {owner.dies_at:%Y-%m-%d %H:%M:%S} UTC on, a failure makes it a dead letter"
    return (
        owner.paused_until,
        f"a probe, because the installation is paused ({owner.pause_reason}): {resume} sends it at once; {last}",
    )
