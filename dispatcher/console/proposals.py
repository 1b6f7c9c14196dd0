"""Proposals: what an action would do now, which its page shows before a person confirms it."""

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Self
from urllib.parse import urlencode

from starlette.datastructures import QueryParams

from dispatcher.console.dead_letter_filter import MAX_ID, Wanted
from dispatcher.console.fields import read_number
from dispatcher.console.operations import Change, Work
from dispatcher.console.plan_tokens import Promise
from dispatcher.database.transactions import Database
from dispatcher.inspection.dead_letters import DeadLetter, Plan, list_dead_letters, plan
from dispatcher.inspection.installations import Waiting, count_due, count_waiting
from dispatcher.outbox.events import INSTALLATION_ID
from dispatcher.policy.decision import DeadLetterReason
from dispatcher.policy.rate_window import seconds_for
from dispatcher.settings.settings import Settings
from dispatcher.store.dead_letters import Filter, Signature, discard, replay
from dispatcher.store.installations import pause, purge, resume
from dispatcher.store.records import Progress

MAX_UNTYPED_NUMBER = 100
"""To discard more dead letters, their number has to be typed."""
MAX_NOTE_LENGTH = 2_000
SHOWN_ROWS = 10
MAX_SEARCHED_EVENTS = 100_000
"""Events of the outbox that are searched at most for those of an installation; a command searches all."""
OLDEST = ("1", "10", "100", "")
"""How many can be taken first; empty: all."""


class NothingToDo(Exception):
    """There are no such rows. The message says so."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """An action on certain rows, and what a person has to write to confirm it."""

    promise: Promise
    work: Work
    command_words: tuple[str, ...]
    details: Mapping[str, object]
    """Shown beside the rest."""
    needs_note: bool = True
    to_type: str | None = None
    """Has to be typed, as a sign that it was read."""

    def complaints(self, fields: Mapping[str, str]) -> dict[str, str]:
        """Returns what is wrong with the form, by its field; continues the field's name."""
        note, typed = note_of(fields), fields.get("typed", "").strip()
        wrong = {}
        if self.needs_note and not note:
            wrong["note"] = "is missing: say it to those who look at this later"
        if "\0" in note:
            wrong["note"] = "has a character that the database cannot store"
        if len(note) > MAX_NOTE_LENGTH:
            wrong["note"] = f"is longer than {MAX_NOTE_LENGTH:,} characters"
        if self.to_type is not None and typed != self.to_type:
            wrong["typed"] = "exactly, to confirm"
        return wrong


def note_of(fields: Mapping[str, str]) -> str:
    """Returns why the person does it, as the form has it."""
    return fields.get("note", "").strip()


def propose_replay(
    database: Database, settings: Settings, query: QueryParams, now: datetime, until: int | None
) -> Proposal:
    """Sends the events of dead letters again."""
    letters = _Letters.of(database, query, now, until, for_replay=True)
    planned, taken = letters.planned, letters.taken
    rows = planned.dead_letters - planned.malformed
    if not rows:
        raise NothingToDo("No dead letter that can be replayed matches.")
    details = {"seconds": planned.seconds(settings.rate_limit, settings.global_rate_limit)}
    proposal = letters.propose("replay", rows, partial(replay, wanted=taken, until=planned.last_id), details)
    return replace(proposal, needs_note=rows > 1, work=replace(proposal.work, replayed=taken))


def propose_discard(database: Database, _: Settings, query: QueryParams, now: datetime, until: int | None) -> Proposal:
    """Resolves dead letters without sending anything."""
    letters = _Letters.of(database, query, now, until)
    planned = letters.planned
    rows = planned.dead_letters
    if not rows:
        raise NothingToDo("No unresolved dead letter matches.")
    proposal = letters.propose("discard", rows, partial(discard, wanted=letters.taken, until=planned.last_id))
    return replace(proposal, to_type=str(rows) if rows > MAX_UNTYPED_NUMBER else None)


@dataclass(frozen=True, slots=True)
class _Letters:
    """The dead letters that an action would take."""

    wanted: Wanted
    planned: Plan
    taken: Filter
    """Exactly these, also if others die meanwhile."""
    rows: list[DeadLetter]
    """The newest of them."""

    @classmethod
    def of(
        cls, database: Database, query: QueryParams, now: datetime, until: int | None, *, for_replay: bool = False
    ) -> Self:
        """Selects those with ids up to `until`, if it is given; then the plan has chosen the oldest already. Raises UnusableFilter."""
        wanted = Wanted.of(query).taken(query.get("oldest", "").strip()).fixed(now)
        selected, oldest = wanted.filter(now), read_number("oldest", wanted.oldest, 1, MAX_ID)
        if until is not None:
            selected, oldest = replace(selected, before=until + 1), None
        planned = plan(database, selected, for_replay=for_replay, oldest=oldest)
        taken = replace(selected, before=planned.last_id + 1)
        with_purged = for_replay and selected.reason is DeadLetterReason.PURGED
        rows = list_dead_letters(database, taken, SHOWN_ROWS, resolved=with_purged)
        return cls(wanted, planned, taken, rows)

    def propose(self, action: str, rows: int, change: Change, details: Mapping[str, object] | None = None) -> Proposal:
        wanted, planned = self.wanted, self.planned
        options = wanted.action_options
        title = f"{action.capitalize()} {rows:,} dead letter{'' if rows == 1 else 's'}"
        scope = {"filter": shlex.join(options), "dead_letters": rows}
        work = Work(title, action, scope, rows, change, origin="dead-letters")
        shown = {"planned": planned, "letters": self.rows, "counts": _counts(wanted, rows), **(details or {})}
        promise = Promise(action, wanted.query, planned.last_id, planned.dead_letters)
        return Proposal(promise, work, ("dead-letters", action, *options), shown)


def _counts(wanted: Wanted, rows: int) -> list[tuple[str, str, bool]]:
    """Returns the numbers that can be taken of these rows: the name, the query, and whether it is this one."""
    return [
        (f"the oldest {number}" if number else "all", wanted.taken(number).query, number == wanted.oldest)
        for number in OLDEST
        if not number or int(number) < rows or wanted.oldest
    ]


def propose_pause(database: Database, _: Settings, query: QueryParams, __: datetime, ___: int | None) -> Proposal:
    """Sends nothing for an installation until it is resumed."""
    id_, waiting = _waiting(database, query)

    def change(database: Database, *, signature: Signature, progress: Progress) -> int:
        progress(done := int(pause(database, id_, signature)))
        return done

    return _of_installation("pause", id_, 1, change, {"waiting": waiting})


def propose_resume(database: Database, settings: Settings, query: QueryParams, _: datetime, __: int | None) -> Proposal:
    """Ends the pause of an installation."""
    id_, _waits = _waiting(database, query)
    due = count_due(database, id_, MAX_SEARCHED_EVENTS)
    seconds = max(seconds_for(due.events + due.now, rate) for rate in (settings.rate_limit, settings.global_rate_limit))

    def change(database: Database, *, signature: Signature, progress: Progress) -> int:  # noqa: ARG001 (a pause ends without)
        progress(done := int(resume(database, id_)))
        return done

    proposal = _of_installation("resume", id_, 1, change, {"due": due, "seconds": seconds})
    return replace(proposal, needs_note=False)


def propose_purge(database: Database, settings: Settings, query: QueryParams, _: datetime, __: int | None) -> Proposal:
    """Gives up everything that waits for an installation."""
    id_, waiting = _waiting(database, query)
    window = timedelta(seconds=settings.rate_limit.seconds if settings.rate_limit else 0)

    def change(database: Database, *, signature: Signature, progress: Progress) -> int:
        return purge(database, id_, progress, signature=signature, rate_window=window)

    total = waiting.events + waiting.deliveries
    undo = ("dead-letters", "replay", "--installation", id_, "--reason", DeadLetterReason.PURGED.value)
    return replace(_of_installation("purge", id_, total, change, {"waiting": waiting, "undo": undo}), to_type=id_)


def _waiting(database: Database, query: QueryParams) -> tuple[str, Waiting]:
    id_ = query.get("installation", "")
    waiting = count_waiting(database, id_, MAX_SEARCHED_EVENTS) if INSTALLATION_ID.fullmatch(id_) else None
    if waiting is None:
        raise NothingToDo(f"There is no installation {id_}: nothing waits for it, and it is not known.")
    return id_, waiting


def _of_installation(action: str, id_: str, total: int, change: Change, details: Mapping[str, object]) -> Proposal:
    scope = {"installation_id": id_}
    work = Work(f"{action.capitalize()} {id_}", action, scope, total, change, origin="installations")
    promise = Promise(action, urlencode({"installation": id_}))
    return Proposal(promise, work, ("installations", action, id_), details)


Propose = Callable[[Database, Settings, QueryParams, datetime, int | None], Proposal]
"""Makes a proposal from the query of a URL: of what the database holds now, and of nothing that dies after the id `until`, if it is
given. Raises UnusableFilter and NothingToDo.
"""
PROPOSE: Mapping[str, Propose] = {
    "replay": propose_replay,
    "discard": propose_discard,
    "pause": propose_pause,
    "resume": propose_resume,
    "purge": propose_purge,
}
"""The actions that there are."""
