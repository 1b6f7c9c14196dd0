"""The outcome of the demo: whether the law was kept, and the figures."""

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
    """What became of the changes that were committed. Lags are in seconds, from a commit to the request that covers it."""

    changes: int
    requests: int
    delivered: int
    """Successful requests."""
    coalesced: int
    """Changes beyond the first that one request covers."""
    retried: int
    """Requests that did not succeed."""
    dead_letters: dict[str, int]
    paused: dict[str, int]
    waiting: int
    lag_median: float
    lag_worst: float
    broken: list[str]
    """Committed changes that no later request, dead letter or waiting delivery covers, and requests about the one rolled back."""
    database: str
    """The path of its file."""


def account_for(application: Application, requests: Sequence[ReceivedRequest], database: Database) -> Account:
    """Compares the changes that were committed with the requests that were received."""
    successful = [one for one in requests if one.status == 201]
    last: dict[tuple[object, object], float] = {}
    for one in successful:
        last[one.installation_id, one.event["resourceId"]] = one.received_at
    covered, reasons = _covered_otherwise(database)
    backlog = measure(database)
    lags = sorted(_lags(application.changes, successful))
    broken = [
        f"{change.installation_id}/{change.resource_id}"
        for change in application.changes
        if last.get(subject := (change.installation_id, change.resource_id), 0.0) < change.at and subject not in covered
    ]
    broken += [ROLLED_BACK for one in requests if one.event.get("resourceId") == ROLLED_BACK]
    return Account(
        changes=len(application.changes),
        requests=len(requests),
        delivered=len(successful),
        coalesced=len(lags) - len(successful),
        retried=len(requests) - len(successful),
        dead_letters=reasons,
        paused=backlog.paused_installations,
        waiting=backlog.left,
        lag_median=lags[len(lags) // 2],
        lag_worst=lags[-1],
        broken=broken,
        database=str(database.engine.url.database),
    )


def _covered_otherwise(database: Database) -> tuple[set[tuple[object, object]], dict[str, int]]:
    """Returns the subjects of dead letters and waiting deliveries, and the number of dead letters by reason."""
    with database.read() as connection:
        dead = connection.execute(sa.select(dead_letter).where(dead_letter.c.resolved_at.is_(None))).all()
        waiting = connection.execute(sa.select(delivery)).all()
    return {(row.installation_id, row.resource_id) for row in [*dead, *waiting]}, dict(
        Counter(row.reason for row in dead)
    )


def _lags(changes: Sequence[Change], successful: Sequence[ReceivedRequest]) -> list[float]:
    """For each change that was delivered, the seconds until the first successful request that covers it."""
    arrivals: dict[tuple[object, object], list[float]] = {}
    for one in successful:
        arrivals.setdefault((one.installation_id, one.event["resourceId"]), []).append(one.received_at)
    covered_at = (
        next((at for at in arrivals.get((change.installation_id, change.resource_id), ()) if at >= change.at), None)
        for change in changes
    )
    return [at - change.at for at, change in zip(covered_at, changes, strict=True) if at is not None]


def print_account(account: Account, command: str, say: Say, *, is_kept: bool) -> None:
    """Prints the account, and the commands for a closer look at the database, which the person deletes if it `is_kept`.

    `command` is the name by which this program was started.
    """
    say("")
    say(f"{account.changes} committed changes were announced in {account.requests} requests:")
    say(f"  {account.delivered} delivered, {account.coalesced} changes coalesced into another's request")
    say(
        f"  {account.retried} answers other than success (503, 429, 404, 401), each led to a retry, a pause or a dead letter"
    )
    say(f"  lag from commit to request: median {account.lag_median:.2f} s, at most {account.lag_worst:.2f} s")
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
        say(
            "or a dead letter or a paused installation explains why not. The change that was rolled back was never sent."
        )
    say("")
    say("For a closer look:")
    say(f"  export DISPATCHER_DATABASE_URL=sqlite:///{account.database}")
    for arguments in ("status", "dead-letters list", f"explain {UNKNOWN}", "installations list"):
        say(f"  {command} {arguments}")
    if is_kept:
        say(f"  rm -r {Path(account.database).parent}")
