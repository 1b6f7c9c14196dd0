"""A plain model kept next to the real tables, for the invariants that no table can show.

It counts the partners' commits and remembers which of them Vercel's last successful read covers and which a dead letter explains.
"""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Row

from dispatcher.database.transactions import Database
from dispatcher.outbox.events import INSTALLATION_REMOVED
from dispatcher.outbox.tables import attempt, dead_letter, delivery, installation, outbox
from dispatcher.store import Removal

Rows = list[Row[Any]]
EVERYTHING = [
    sa.select(table).order_by(*table.primary_key) for table in (outbox, delivery, installation, dead_letter, attempt)
]


@dataclass(frozen=True)
class Snapshot:
    """The contents of the tables at one moment, and the database's time."""

    now: datetime
    outbox: Rows
    deliveries: Rows
    installations: dict[str, Row[Any]]
    dead_letters: Rows
    attempts: Rows

    @classmethod
    def of(cls, database: Database) -> "Snapshot":
        with database.read() as connection:
            now = connection.execute(sa.select(database.dialect.clock())).scalar_one()
            events, deliveries, installations, dead_letters, attempts = (
                list(connection.execute(statement)) for statement in EVERYTHING
            )
        by_id = {row.installation_id: row for row in installations}
        return cls(now, events, deliveries, by_id, dead_letters, attempts)

    def only(self, installation_ids: set[str]) -> tuple[Rows, ...]:
        """Returns all rows about these installations in the dispatcher's tables."""
        tables = (self.deliveries, list(self.installations.values()), self.dead_letters, self.attempts)
        return tuple([row for row in rows if row.installation_id in installation_ids] for rows in tables)

    def removals(self) -> list[Removal]:
        """Returns the removals in the outbox."""
        found = [row for row in self.outbox if row.type == INSTALLATION_REMOVED]
        return [Removal(row.id, row.installation_id, row.created_at) for row in found]

    def keys(self) -> set[str]:
        """Returns the keys of the subjects that have a delivery."""
        return {row.subject_key for row in self.deliveries}

    def token(self, installation_id: str) -> str | None:
        """Returns the token of the installation's lease, if it has one."""
        row = self.installations.get(installation_id)
        return None if row is None else row.lease_token

    def any_due(self) -> bool:
        """Whether any installation is due, so that a claim has something to do."""
        return any(row.due_at is not None and row.due_at <= self.now for row in self.installations.values())

    def tied(self) -> bool:
        """Whether installations are due at the same time: a claim of one would take either, and the run could not be repeated."""
        dues = [row.due_at for row in self.installations.values() if row.due_at is not None]
        return len(set(dues)) < len(dues)

    def unresolved(self) -> Rows:
        """In an order that the next run repeats: the ids of letters that one statement wrote may differ."""
        unresolved = [row for row in self.dead_letters if row.resolved_at is None]
        return sorted(unresolved, key=lambda row: (row.first_event_id, row.id))

    def claimable(self) -> set[str]:
        """Returns the installations that a claim may take: they have a due delivery, and no lease, pause or rate limit prevents it."""
        due = {row.installation_id for row in self.deliveries if row.due_at <= self.now}
        return {one for one in due if one in self.installations and not self.hindered(one)}

    def hindered(self, installation_id: str) -> bool:
        """Whether a lease, a pause or the rate limit prevents a claim of the installation."""
        row = self.installations[installation_id]
        times = (row.leased_until, row.paused_until, row.throttled_until)
        return any(time is not None and time > self.now for time in times)

    def next_look(self, installation_id: str) -> datetime:
        """Returns the latest time at which the installation must be due, given its deliveries and its own state."""
        row = self.installations[installation_id]
        first = min(one.due_at for one in self.deliveries if one.installation_id == installation_id)
        return max(time for time in (first, self.now, row.paused_until, row.throttled_until) if time is not None)


@dataclass
class Truth:
    """The commits, numbered in order, and what became of them."""

    commits: int = 0
    committed: dict[int, tuple[str, int]] = field(default_factory=dict)
    """Event id → its subject key and the number of its commit."""
    seen: dict[str, int] = field(default_factory=dict)
    """Subject key → the number of commits when the last successful request about the subject started."""
    explained: dict[str, int] = field(default_factory=dict)
    """Subject key → the number of the last commit that a dead letter accounts for."""
    delivered: int = 0
    """The number of events delivered."""
    dead: dict[int, int] = field(default_factory=dict)
    """Dead letter's id → the number of its events."""

    def commit(self, events: dict[int, str]) -> None:
        """Records a committed transaction with these events (id → subject key)."""
        self.commits += 1
        self.committed |= {event_id: (key, self.commits) for event_id, key in events.items()}

    def look(self, key: str, started: int) -> None:
        """Records a successful request that started when there were `started` commits."""
        self.seen[key] = max(started, self.seen.get(key, 0))

    def last_commit(self, key: str) -> int:
        """Returns the number of the last commit that changed the subject."""
        return max((number for changed, number in self.committed.values() if changed == key), default=0)

    def explain(self, tables: Snapshot) -> None:
        """Records new dead letters: each accounts for the events of its subject that were collected by then."""
        waiting = {row.id for row in tables.outbox}
        for row in tables.dead_letters:
            if row.id not in self.dead:
                self.dead[row.id] = row.events
                collected = [
                    n for id_, (key, n) in self.committed.items() if key == row.subject_key and id_ not in waiting
                ]
                self.explained[row.subject_key] = max(collected)

    def check(self, tables: Snapshot) -> None:
        """Checks the conditions that must hold at every moment."""
        self.explain(tables)
        waiting = {row.id for row in tables.outbox}
        assert waiting <= self.committed.keys(), "the outbox holds events that were never committed"
        under_way = tables.keys() | {self.committed[id_][0] for id_ in waiting}
        for key in {key for key, _ in self.committed.values()} - under_way:
            known = max(self.seen.get(key, 0), self.explained.get(key, 0))
            assert known >= self.last_commit(key), (
                "nothing is under way, but Vercel's last look is older than the last commit"
            )
        for row in tables.deliveries:
            assert row.installation_id in tables.installations, "a delivery has no installation row"
            due_at = tables.installations[row.installation_id].due_at
            assert due_at is not None, "a delivery waits, and no worker will ever look at it again"
            assert due_at <= tables.next_look(row.installation_id), "a delivery waits longer than necessary"
        accounted = (
            len(waiting) + sum(row.events for row in tables.deliveries) + self.delivered + sum(self.dead.values())
        )
        assert accounted == len(self.committed), "events appeared or vanished"
