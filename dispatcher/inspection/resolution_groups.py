"""What people did with dead letters: the newest resolutions, by who made them, why, and in which minute."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Row

from dispatcher.database.transactions import Database
from dispatcher.outbox.tables import dead_letter
from dispatcher.policy.decision import Resolution

MAX_GROUPED_ROWS = 5_000
"""The newest resolved dead letters that are read at most."""
MAX_LISTED_IDS = 20
_MINUTE = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class ResolutionGroup:
    """Dead letters that a person resolved in the same minute, with the same reason. A purge resolves them, too."""

    minute: datetime
    """Its beginning."""
    resolution: Resolution
    by: str | None
    """None if the application removed the installation."""
    note: str | None
    dead_letters: int
    ids: list[int]
    """The newest `MAX_LISTED_IDS` of them."""

    @property
    def is_replay(self) -> bool:
        """Whether they were replayed, which has an aftermath."""
        return self.resolution is Resolution.REPLAYED

    @property
    def end(self) -> datetime:
        """The end of the minute."""
        return self.minute + _MINUTE


@dataclass(frozen=True, slots=True)
class ResolutionGroups:
    """The groups, the newest first."""

    groups: list[ResolutionGroup]
    complete: bool
    """Whether every resolved dead letter was read. If not, there may be older groups, and the oldest one may have more."""


def group_resolutions(database: Database, limit: int, scan_limit: int = MAX_GROUPED_ROWS) -> ResolutionGroups:
    """Groups the resolutions by people among the newest `scan_limit` resolved dead letters; returns the newest `limit` groups."""
    columns = dead_letter.c
    names = ("id", "resolved_at", "resolution", "resolved_by", "note")
    newest_first = (columns.resolved_at.desc(), columns.id.desc())
    resolved = sa.select(*(columns[name] for name in names)).where(columns.resolved_at.is_not(None))
    newest = resolved.order_by(*newest_first)
    scanned = newest.limit(scan_limit).subquery()
    by_people = sa.select(scanned).where(scanned.c.resolution != Resolution.SUPERSEDED)
    with database.read() as connection:
        beyond = connection.execute(newest.with_only_columns(columns.id).offset(scan_limit).limit(1)).first()
        rows = connection.execute(by_people.order_by(scanned.c.resolved_at.desc(), scanned.c.id.desc())).all()
    members: dict[tuple[object, ...], list[Row[Any]]] = {}
    for row in rows:
        members.setdefault((_minute(row.resolved_at), row.resolution, row.resolved_by, row.note), []).append(row)
    return ResolutionGroups([_group(letters) for letters in members.values()][:limit], beyond is None)


def _group(letters: list[Row[Any]]) -> ResolutionGroup:
    newest = letters[0]
    return ResolutionGroup(
        _minute(newest.resolved_at),
        Resolution(newest.resolution),
        newest.resolved_by,
        newest.note,
        dead_letters=len(letters),
        ids=[row.id for row in letters[:MAX_LISTED_IDS]],
    )


def _minute(at: datetime) -> datetime:
    return at.replace(second=0, microsecond=0)
