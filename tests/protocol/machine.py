"""Partners, workers and time take the real steps on a real database in any order; the truth is checked after each step.

To let time pass, every time in the tables is moved into the past. Deliveries are put off for so long that only a long wait makes them
due again, so the real seconds that a run takes do not matter.
"""

import sys
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any, TypeVar

import sqlalchemy as sa
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from sqlalchemy import Engine, Row

from dispatcher import InstallationRemoved, InstallationUpdated, ResourceUpdated, store
from dispatcher.database.transactions import Database
from dispatcher.outbox.events import INSTALLATION_REMOVED, Event, Subject
from dispatcher.outbox.tables import attempt, dead_letter, delivery, installation, outbox
from dispatcher.policy.decision import Action
from dispatcher.store import dead_letters, installations
from dispatcher.store.dead_letters import Filter, Signature
from tests.protocol.players import LATER_SECONDS, REPLIES, Held, Reply, Writer
from tests.protocol.truth import Snapshot, Truth

LEASE = timedelta(seconds=60)
SHORT_WAIT = timedelta(seconds=70)
"""Longer than a lease; all short waits of a run together are shorter than `LATER_SECONDS`."""
LONG_WAIT = 2 * timedelta(seconds=LATER_SECONDS)
MAX_WRITERS = 3
MAX_HELD = 4
FINAL_ROUNDS = 2
"""After this many long waits, each followed by a round of deliveries, nothing may be left."""
EVENTS: list[Event] = [
    ResourceUpdated(installation_id="icfg_1", resource_id="db_1"),
    ResourceUpdated(installation_id="icfg_1", resource_id="db_2"),
    InstallationUpdated(installation_id="icfg_2", billing_plan_id="pro"),
]
TIMES = {
    delivery: ["due_at", "visible_at"],
    installation: ["due_at", "leased_until", "paused_until", "paused_since", "throttled_until"],
}

Choice = TypeVar("Choice")


class Draw:
    """Lets Hypothesis choose."""

    def __init__(self, data: st.DataObject) -> None:
        self._data = data

    def __call__(self, choices: Sequence[Choice]) -> Choice:
        return self._data.draw(st.sampled_from(choices))


Step = Callable[["Machine", Draw], None]
Condition = Callable[["Machine"], object]
STEPS: list[tuple[Step, Condition]] = []


def step(*, when: Condition, shares: int = 1) -> Callable[[Step], Step]:
    """Registers a step that may be taken while the condition holds; more shares make it more frequent."""

    def enlist(taken: Step) -> Step:
        STEPS.extend([(taken, when)] * shares)
        return taken

    return enlist


class Machine(RuleBasedStateMachine):
    """The steps, and the conditions that must hold after them.

    The steps are choices of one rule. If each were a rule, Hypothesis would switch off about half of them in each run, and hardly any
    run would reach a settlement. It prefers the first choices, so the steps are in the reverse order of an event's journey: the step
    that takes an event furthest comes first.
    """

    def __init__(self, database: Database, partner: Engine, events: Sequence[Event] = EVENTS) -> None:
        super().__init__()
        self.database = database
        self.partner = partner
        self.events = events
        self.truth = Truth()
        self.now = timedelta(0)
        self.low_water = store.LOWEST_ID
        self.writers: list[Writer] = []
        self.held: list[Held] = []

    @initialize()
    def begin_with_nothing(self) -> None:
        with self.database.engine.begin() as connection:
            for table in (outbox, installation, delivery, dead_letter, attempt):
                connection.execute(sa.delete(table))
        self.tables = Snapshot.of(self.database)

    @rule(data=st.data())
    def take_a_step(self, data: st.DataObject) -> None:
        draw = Draw(data)
        names = [taken.__name__ for taken, when in STEPS if when(self)]
        getattr(self, draw(names))(draw)

    @invariant()
    def the_truth_holds(self) -> None:
        if self.may_write():
            self.untie()
        self.tables = Snapshot.of(self.database)
        self.truth.check(self.tables)
        live = [held.installation_id for held in self.held if held.until > self.now]
        assert len(live) == len(set(live)), "an installation under two live leases"

    def teardown(self) -> None:
        """Checks that everything is delivered once the partners are done and Vercel answers."""
        for writer in self.writers:
            writer.roll_back()
        self.writers.clear()
        if sys.exc_info()[1] is None:  # otherwise the run has already failed, and that failure is reported
            for installation_id in self.tables.installations:
                installations.resume(self.database, installation_id)
            for _ in range(FINAL_ROUNDS):
                self.deliver_everything()
            assert not self.tables.outbox, "events are left that no collection moves"
            assert not self.tables.deliveries, "deliveries are left that no claim reads"

    # workers

    @step(when=lambda machine: any(held.planned for held in machine.held), shares=4)
    def send(self, draw: Draw) -> None:
        """Sends even under an expired lease, which is the worst that a worker can do."""
        held = draw([held for held in self.held if held.planned])
        self.request(held, REPLIES[draw(list(REPLIES))])

    @step(when=lambda machine: machine.held and machine.may_write(), shares=3)
    def settle(self, draw: Draw) -> None:
        """Settles the answers of one lease, or of one lease of each installation."""
        one = draw(self.held)
        several = {held.installation_id: held for held in [*self.held, one]}
        self.hand_in(draw([[one], list(several.values())]), release=draw([True, False]))

    @step(when=lambda machine: machine.tables.any_due() and machine.may_write(), shares=2)
    def claim(self, draw: Draw) -> None:
        limit, suspects = draw([9, 1]), draw([0, 2])
        self.lease(9 if self.tables.tied() else limit, suspects)

    @step(when=lambda machine: machine.tables.outbox and machine.may_write(), shares=2)
    def collect(self, draw: Draw) -> None:
        """Collects from the low-water mark on, as between two sweeps, or from the lowest id on."""
        low_water, delay = draw([store.LOWEST_ID, self.low_water]), timedelta(seconds=draw([0.0, LATER_SECONDS]))
        collected = store.collect(self.database, draw([500, 1]), low_water, delay)
        self.low_water = max(self.low_water, collected.last_event_id or self.low_water)

    @step(when=lambda machine: machine.held and machine.may_write())
    def pull(self, draw: Draw) -> None:
        held = draw(self.held)

        def renew() -> set[str]:
            deliveries = store.pull(self.database, {held.installation_id: held.token}, 9, LEASE).deliveries
            held.plan(deliveries.get(held.installation_id, []))
            return {held.installation_id} - deliveries.keys()

        if not self.write_under([held], renew):
            held.until = self.now + LEASE

    @step(when=lambda machine: machine.suspected() and machine.may_write(), shares=2)
    def pull_a_suspect(self, draw: Draw) -> None:
        """Reads the next delivery after a crash, once the one before it is settled."""
        held, max_attempts = draw(self.suspected()), draw([20, 1])

        def read() -> set[str]:
            tokens = {held.installation_id: held.token}
            suspects = store.pull_suspects(
                self.database, tokens, LEASE, limit=9, under_way=0, max_attempts=max_attempts
            )
            held.plan(suspects.deliveries)
            return tokens.keys() - suspects.ours

        if not self.write_under([held], read):
            held.until = self.now + LEASE

    @step(when=lambda machine: machine.held)
    def crash(self, draw: Draw) -> None:
        self.held.remove(draw(self.held))

    # partners

    @step(when=lambda machine: machine.may_write())
    def change(self, draw: Draw) -> None:
        """Commits one event in a short transaction, as most partners do."""
        writer = Writer(self.partner)
        writer.insert(draw(self.events))
        self.truth.commit(writer.commit())

    @step(when=lambda machine: machine.may_write() and len(machine.writers) < MAX_WRITERS)
    def open_a_transaction(self, draw: Draw) -> None:
        self.writers.append(Writer(self.partner))
        self.writers[-1].insert(draw(self.events))

    @step(when=lambda machine: machine.writers_without_savepoint())
    def insert_after_a_savepoint(self, draw: Draw) -> None:
        writer = draw(self.writers_without_savepoint())
        writer.save()
        writer.insert(draw(self.events))

    @step(when=lambda machine: any(writer.savepoint for writer in machine.writers))
    def roll_back_to_the_savepoint(self, draw: Draw) -> None:
        draw([writer for writer in self.writers if writer.savepoint]).take_back()

    @step(when=lambda machine: machine.writers)
    def commit(self, draw: Draw) -> None:
        writer = draw(self.writers)
        self.writers.remove(writer)
        self.truth.commit(writer.commit())

    @step(when=lambda machine: machine.writers)
    def roll_back(self, draw: Draw) -> None:
        writer = draw(self.writers)
        self.writers.remove(writer)
        writer.roll_back()

    @step(when=lambda machine: machine.may_write())
    def uninstall(self, draw: Draw) -> None:
        """Commits a removal."""
        writer = Writer(self.partner)
        writer.insert(InstallationRemoved(installation_id=draw(sorted({one.installation_id for one in self.events}))))
        self.truth.commit(writer.commit())

    @step(when=lambda machine: machine.tables.removals() and machine.may_write())
    def remove(self, draw: Draw) -> None:
        """Takes a step of a removal, whether or not the events before it have been collected."""
        removal = draw(self.tables.removals())
        later = [row for row in self.tables.deliveries if row.last_event_id > removal.event_id]
        self.carry_out(removal, draw([500, 1]))
        left = Snapshot.of(self.database)
        assert {row.subject_key for row in later} <= left.keys(), "a removal took a later event"

    # time

    @step(when=lambda machine: machine.tables.installations and machine.may_write())
    def let_time_pass(self, draw: Draw) -> None:
        """Lets every lease expire; after a long wait everything that was put off is due again."""
        self.wait(draw([SHORT_WAIT, LONG_WAIT]))

    @step(when=lambda machine: machine.tables.attempts and machine.may_write())
    def prune(self, _draw: Draw) -> None:
        store.prune(self.database, timedelta(0), timedelta(0))
        store.forget_idle(self.database, timedelta(0))
        assert Snapshot.of(self.database).unresolved() == self.tables.unresolved()

    # operators

    @step(when=lambda machine: machine.tables.installations and machine.may_write())
    def pause(self, draw: Draw) -> None:
        assert installations.pause(self.database, draw(sorted(self.tables.installations)))

    @step(when=lambda machine: machine.tables.installations and machine.may_write())
    def resume(self, draw: Draw) -> None:
        assert installations.resume(self.database, draw(sorted(self.tables.installations)))

    @step(when=lambda machine: machine.tables.installations and machine.may_write())
    def purge(self, draw: Draw) -> None:
        installation_id = draw(sorted(self.tables.installations))
        installations.purge(self.database, installation_id, lambda _: None)
        after = Snapshot.of(self.database)
        events = [row for row in after.outbox if row.type != INSTALLATION_REMOVED]
        assert installation_id not in {row.installation_id for row in (*after.deliveries, *events)}

    @step(when=lambda machine: machine.tables.unresolved() and machine.may_write())
    def replay(self, draw: Draw) -> None:
        """Replays one dead letter. The truth counts that as a commit, like a partner's."""
        dead = draw([row.id for row in self.tables.unresolved()])
        assert self.resolve(dead_letters.replay, dead) == 1
        assert self.resolve(dead_letters.replay, dead) == 0, "replayed twice"
        known = {row.id for row in self.tables.outbox}
        published = [row for row in Snapshot.of(self.database).outbox if row.id not in known]
        self.truth.commit({row.id: key_of(row) for row in published})

    @step(when=lambda machine: machine.tables.unresolved() and machine.may_write())
    def discard(self, draw: Draw) -> None:
        assert self.resolve(dead_letters.discard, draw([row.id for row in self.tables.unresolved()])) == 1

    # helpers of the steps

    def carry_out(self, removal: store.Removal, chunk: int) -> bool:
        """Takes one step of the removal. The truth counts the event of a completed one as delivered."""
        removed = store.remove(self.database, removal, chunk)
        if removed.done:
            self.truth.delivered += 1
            self.truth.look(Subject(removal.installation_id, INSTALLATION_REMOVED).key, self.truth.commits)
        return removed.done

    def resolve(self, how: Callable[..., int], dead: int) -> int:
        return how(self.database, Filter(ids=[dead]), dead, Signature("test"), lambda _: None)

    def suspected(self) -> list[Held]:
        return [held for held in self.held if held.suspects and not held.planned and not held.requests]

    def writers_without_savepoint(self) -> list[Writer]:
        return [writer for writer in self.writers if not writer.savepoint]

    def may_write(self) -> bool:
        """Whether a step may write: SQLite has only one writer at a time."""
        return not (self.writers and self.database.dialect.name == "sqlite")

    def wait(self, time: timedelta) -> None:
        self.now += time
        with self.database.engine.begin() as connection:
            for table, names in TIMES.items():
                (key,) = table.primary_key
                for row in connection.execute(sa.select(table)).mappings().all():
                    earlier = {name: _earlier(row[name], time) for name in names}
                    connection.execute(sa.update(table).where(key == row[key.name]).values(earlier))
        assert store.repair(self.database) == 0, "the sweep found a stranded delivery"

    def untie(self) -> None:
        """Makes deliveries due one after the other. Of those due at the same time the database reads any first, and the run could not be
        repeated.
        """
        moved: set[datetime] = set()
        with self.database.engine.begin() as connection:
            for row in connection.execute(
                sa.select(delivery.c.subject_key, delivery.c.due_at).order_by(*delivery.primary_key)
            ):
                due_at = row.due_at
                while due_at in moved:
                    due_at += timedelta(microseconds=1)
                moved.add(due_at)
                if due_at != row.due_at:
                    this = delivery.c.subject_key == row.subject_key
                    connection.execute(sa.update(delivery).where(this).values(due_at=due_at))

    def lease(self, limit: int = 9, suspects: int = 0) -> None:
        before = Snapshot.of(self.database)
        claimed = store.claim(
            self.database, installations=limit, deliveries=100, lease=LEASE, leased_by="test", suspects=suspects
        )
        leased = {one.installation_id for one in claimed.leased}
        assert not [one for one in leased if before.hindered(one)], "claimed in spite of a lease, a pause or the rate"
        assert len(leased) == limit or before.claimable() <= leased, (
            "an installation that is due and free is not claimed"
        )
        for one in sorted(claimed.leased, key=lambda leased: leased.installation_id):
            self.held.append(Held(one.installation_id, one.token, self.now + LEASE, one.suspects))
            self.held[-1].plan(one.deliveries)
        del self.held[:-MAX_HELD]

    def request(self, held: Held, reply: Reply) -> None:
        """Makes a request from start to end. The number of commits at its start stands in for steps that happen in between."""
        commits = self.truth.commits
        key = held.send(reply, commits)
        if reply.looked:
            self.truth.look(key, commits)

    def hand_in(self, held: list[Held], *, release: bool) -> None:
        """Settles their answers and counts the delivered events."""
        answers = [answer for one in held for answer in one.answers()]
        states = [one.state(release=release, fresh=one.until == self.now + LEASE) for one in held]
        lost = self.write_under(held, lambda: set(store.settle(self.database, answers, states, LEASE).lost))
        gone = self.tables.keys() - Snapshot.of(self.database).keys()
        for answer in answers:
            ours = answer.delivery.subject.installation_id not in lost and answer.delivery.subject_key in gone
            if ours and answer.decision.action is Action.DELIVERED:
                self.truth.delivered += answer.delivery.events
        for one in held:
            one.requests.clear()
            one.until = self.now + LEASE
        self.held = [one for one in self.held if one not in held or not (release or one.installation_id in lost)]

    def write_under(self, held: list[Held], write: Callable[[], set[str]]) -> set[str]:
        """Takes a step under these leases. It must report exactly the stale leases as lost, and write nothing under them."""
        before = Snapshot.of(self.database)
        stale = {one.installation_id for one in held if before.token(one.installation_id) != one.token}
        lost = write()
        assert Snapshot.of(self.database).only(stale) == before.only(stale), "written under a lost lease"
        assert lost == stale, "a lost lease was honoured, or a valid one was reported as lost"
        return lost

    def deliver_everything(self) -> None:
        """Waits long, then delivers one round in which every request succeeds."""
        self.wait(LONG_WAIT)
        for removal in store.collect(self.database, 500).removals:
            while not self.carry_out(removal, 500):
                pass
        self.held.clear()
        self.lease()
        for held in self.held:
            held.plan(
                store.pull(self.database, {held.installation_id: held.token}, 100, LEASE).deliveries[
                    held.installation_id
                ]
            )
            while held.planned:
                self.request(held, REPLIES["delivered"])
        self.the_truth_holds()
        if self.held:
            self.hand_in(list(self.held), release=True)
        self.the_truth_holds()


def _earlier(moment: datetime | None, time: timedelta) -> datetime | None:
    """Moves the time into the past, except the end of an operator's pause, which lasts forever."""
    return moment if moment in (None, installations.FOREVER) else moment - time


def key_of(row: Row[Any]) -> str:
    """Returns the subject key of an outbox row."""
    return Subject(row.installation_id, row.type, row.resource_id).key
