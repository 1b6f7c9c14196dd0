"""A partner's open transaction, and a worker's view of its lease."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy import Connection, Engine, NestedTransaction

from dispatcher.outbox.events import Event, subject_of
from dispatcher.outbox.publisher import row_of
from dispatcher.outbox.tables import outbox
from dispatcher.policy.decision import Action, DeadLetterReason, Decision
from dispatcher.policy.outcome import Outcome, OutcomeKind
from dispatcher.store import Answer, Delivery, InstallationState

LATER_SECONDS = 10_000.0


class Reply(NamedTuple):
    """The end of a request."""

    looked: bool
    """Whether Vercel read the partner's state."""
    decision: Decision


REPLIES = {
    "delivered": Reply(True, Decision(Action.DELIVERED)),
    "the answer is lost": Reply(True, Decision(Action.RETRY)),
    "failed": Reply(False, Decision(Action.RETRY, delay=LATER_SECONDS)),
    "throttled": Reply(False, Decision(Action.THROTTLE, delay=LATER_SECONDS)),
    "unauthorized": Reply(False, Decision(Action.PAUSE, DeadLetterReason.UNAUTHORIZED, LATER_SECONDS)),
    "rejected": Reply(False, Decision(Action.BURY, DeadLetterReason.REJECTED)),
}


class Writer:
    """A partner's open transaction, possibly with a savepoint, and its events (id → subject key) before and after the savepoint."""

    def __init__(self, partner: Engine) -> None:
        self.connection: Connection = partner.connect()
        self.transaction = self.connection.begin()
        self.savepoint: NestedTransaction | None = None
        self.events: list[dict[int, str]] = [{}]

    def __repr__(self) -> str:
        return f"{[len(events) for events in self.events]} events"

    def insert(self, event: Event) -> None:
        inserted = self.connection.execute(sa.insert(outbox).values(row_of(event))).inserted_primary_key
        assert inserted is not None
        self.events[-1][inserted.id] = subject_of(event).key

    def save(self) -> None:
        """Sets a savepoint: events inserted after it can be taken back."""
        self.savepoint = self.connection.begin_nested()
        self.events.append({})

    def take_back(self) -> None:
        """Rolls back to the savepoint."""
        if self.savepoint is not None:
            self.savepoint.rollback()
            self.savepoint = None
            self.events.pop()

    def commit(self) -> dict[int, str]:
        """Commits and returns the committed events."""
        self.transaction.commit()
        self.connection.close()
        return {event_id: key for events in self.events for event_id, key in events.items()}

    def roll_back(self) -> None:
        self.transaction.rollback()
        self.connection.close()


class Request(NamedTuple):
    """A request that has ended."""

    delivery: Delivery
    reply: Reply
    commits: int
    """The number of commits when it started."""


@dataclass(eq=False, repr=False)
class Held:
    """A lease as its worker remembers it. It may have expired and been taken over without the worker noticing."""

    installation_id: str
    token: str
    until: timedelta
    suspects: int = 0
    """How many deliveries must still be read one at a time."""
    planned: dict[str, Delivery] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    stopped: bool = False

    def __repr__(self) -> str:
        return f"{self.installation_id}: {len(self.planned)} planned, {len(self.requests)} requests, lease until {self.until}"

    def plan(self, deliveries: Iterable[Delivery]) -> None:
        """Plans the due deliveries, except those of subjects whose answer is not settled yet."""
        sent = {request.delivery.subject_key for request in self.requests}
        in_order = sorted(deliveries, key=lambda one: one.subject_key)
        self.planned |= {one.subject_key: one for one in in_order if one.subject_key not in sent}

    def send(self, reply: Reply, commits: int) -> str:
        """Makes the next request and returns its subject key."""
        key = next(iter(self.planned))
        self.requests.append(Request(self.planned.pop(key), reply, commits))
        self.suspects = max(0, self.suspects - 1)
        return key

    def state(self, *, release: bool, fresh: bool) -> InstallationState:
        """Returns the state to write to the row; `as_written` if everything went well and the lease is fresh."""
        actions = {request.reply.decision.action for request in self.requests}
        self.stopped |= bool(actions - {Action.DELIVERED, Action.BURY})
        return InstallationState(
            self.installation_id,
            self.token,
            suspects=self.suspects,
            throttled_for=LATER_SECONDS if Action.THROTTLE in actions else 0.0,
            release=release,
            as_written=fresh and not release and not self.stopped and not self.suspects,
        )

    def answers(self) -> list[Answer]:
        return [
            Answer(delivery, self.token, Outcome(_outcome(reply.decision.action)), reply.decision)
            for delivery, reply, _ in self.requests
        ]


def _outcome(action: Action) -> OutcomeKind:
    return OutcomeKind.DELIVERED if action is Action.DELIVERED else OutcomeKind.FAILED
