"""What the demo came to: whether the law was kept, and the figures."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from dispatcher.database.transactions import Database
from dispatcher.inspection.backlog import measure
from dispatcher.outbox.tables import dead_letter, delivery
from dispatcher.sandbox import ReceivedRequest
from dispatcher.sandbox.demo_application import ROLLED_BACK, UNKNOWN, Application, Change, Say


@dataclass(frozen=True, slots=True)
class Account:
    """How it went. `broken`: committed changes that neither a later request, nor a dead letter, nor a waiting delivery covers."""

    changes: int
    requests: int
    delivered: int
    coalesced: int
    retried: int
    dead_letters: dict[str, int]
    paused: dict[str, int]
    waiting: int
    lag_median: float
    lag_worst: float
    broken: list[str]
    database: str


def settle_account(application: Application, requests: Sequence[ReceivedRequest], database: Database) -> Account:
    good = [one for one in requests if one.status == 201]
    last: dict[tuple[object, object], float] = {}
    for one in good:
        last[one.installation_id, one.event["resourceId"]] = one.received_at
    excused, reasons = _excuses(database)
    left = measure(database)
    lags = sorted(_lags(application.changes, good))
    broken = [
        f"{change.installation_id}/{change.resource_id}"
        for change in application.changes
        if last.get(subject := (change.installation_id, change.resource_id), 0.0) < change.at and subject not in excused
    ]
    broken += [ROLLED_BACK for one in requests if one.event.get("resourceId") == ROLLED_BACK]
    return Account(
        changes=len(application.changes),
        requests=len(requests),
        delivered=len(good),
        coalesced=len(lags) - len(good),
        retried=len(requests) - len(good),
        dead_letters=reasons,
        paused=left.paused_installations,
        waiting=left.left,
        lag_median=lags[len(lags) // 2],
        lag_worst=lags[-1],
        broken=broken,
        database=str(database.engine.url.database),
    )


def _excuses(database: Database) -> tuple[set[tuple[object, object]], dict[str, int]]:
    """The subjects that are explained in the dead letters or wait in a delivery, and the dead letters by reason."""
    with database.read() as connection:
        dead = connection.execute(sa.select(dead_letter).where(dead_letter.c.resolved_at.is_(None))).all()
        waiting = connection.execute(sa.select(delivery)).all()
    return {(row.installation_id, row.resource_id) for row in [*dead, *waiting]}, dict(
        Counter(row.reason for row in dead)
    )


def _lags(changes: Sequence[Change], good: Sequence[ReceivedRequest]) -> list[float]:
    """Of each change that was delivered: the seconds until the first successful request that covers it."""
    arrivals: dict[tuple[object, object], list[float]] = {}
    for one in good:
        arrivals.setdefault((one.installation_id, one.event["resourceId"]), []).append(one.received_at)
    found = (
        next((at for at in arrivals.get((change.installation_id, change.resource_id), ()) if at >= change.at), None)
        for change in changes
    )
    return [at - change.at for at, change in zip(found, changes, strict=True) if at is not None]


def tell(account: Account, command: str, say: Say) -> None:
    """The account in words, and how to look further; `command` is how this program is called."""
    say("")
    say(f"{account.changes} committed changes were announced in {account.requests} requests:")
    say(f"  {account.delivered} delivered, {account.coalesced} changes coalesced into another's request")
    say(f"  {account.retried} answers other than success (503, 429, 404, 401), each retried, paused or buried")
    say(f"  lag from commit to request: {account.lag_median:.2f} s in the median, {account.lag_worst:.2f} s at worst")
    for reason, count in account.dead_letters.items():
        say(f"  {count} dead letter ({reason}): Vercel does not know the resource {UNKNOWN}")
    for reason, count in account.paused.items():
        say(
            f"  {count} installation paused ({reason}): its {account.waiting} deliveries are kept until its token works"
        )
    say("")
    if account.broken:
        say(f"THE LAW WAS BROKEN for {len(account.broken)} changes: {', '.join(account.broken[:5])}")
    else:
        say("The law held: for every committed change, a successful request started after its commit,")
        say("or the dead letters or a paused installation say why not. The change that was rolled back was never sent.")
    say("")
    say("Look further:")
    say(f"  export DISPATCHER_DATABASE_URL=sqlite:///{account.database}")
    for arguments in ("status", "dead-letters list", f"explain {UNKNOWN}", "installations list"):
        say(f"  {command} {arguments}")
    say(f"  rm -r {Path(account.database).parent}")
