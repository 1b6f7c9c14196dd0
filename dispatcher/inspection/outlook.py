"""What happens next to something that waits, and when."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Row

from dispatcher.inspection.installations import Installation
from dispatcher.policy.decision import PauseReason
from dispatcher.store.sweep import OVERDUE


@dataclass(frozen=True, slots=True)
class Graces:
    """How long a pause may last before deliveries are given up: in general, and for a disabled integration."""

    auth: timedelta
    disabled: timedelta

    def end(self, paused: Installation) -> datetime | None:
        """When the deliveries of a paused installation are given up; None: never."""
        if paused.paused_since is None or paused.pause_reason == PauseReason.OPERATOR:
            return None
        grace = self.disabled if paused.pause_reason == PauseReason.DISABLED else self.auth
        return paused.paused_since + grace


def look_ahead(
    delivery: Row[Any], its: Installation | None, now: datetime, graces: Graces
) -> tuple[datetime | None, str]:
    """When something happens to the delivery (None: at no time that is known), and what. `its` installation's state decides."""
    attempt = f"attempt {delivery.attempts + 1}"
    if its is not None and its.pause_reason is not None:
        return _paused(its, graces)
    if its is not None and its.leased_until is not None and its.leased_until > now:
        return delivery.due_at, f"{attempt}, by {its.leased_by}, which holds the lease"
    if its is not None and its.throttled_until is not None and its.throttled_until > max(now, delivery.due_at):
        return its.throttled_until, f"{attempt}, when the rate limit allows it"
    if delivery.due_at > now:
        return delivery.due_at, f"{attempt}, after the backoff" if delivery.attempts else f"{attempt}"
    if delivery.due_at > now - OVERDUE:
        return delivery.due_at, f"{attempt}, as soon as a dispatcher claims it"
    return delivery.due_at, f"{attempt} is overdue: does `dispatcher run` run?"


def _paused(its: Installation, graces: Graces) -> tuple[datetime | None, str]:
    resume = f"`dispatcher installations resume {its.installation_id}`"
    end = graces.end(its)
    if end is None:
        return None, f"nothing is sent until {resume}"
    last = f"from {end:%Y-%m-%d %H:%M:%S} UTC on a failure makes it a dead letter"
    return (
        its.paused_until,
        f"a probe, for the installation is paused ({its.pause_reason}): {resume} sends it at once; {last}",
    )
