"""The same protocol on a database that can fail over to an asynchronous replica: any commit may vanish, and ids and counts repeat.

A failover resets the database to the state of the replica: outbox, delivery, lease, and the partners' own changes. Workers are clients
and remember what they read before. Changes that the database itself lost are lost, but every change that it kept must be delivered.

A worker pulls: it reads the delivery again under the lease that it holds. Each collection draws the version of a delivery at random; in
the broken variant the version counts the events collected into the row. An operator may purge: everything waiting becomes a dead letter,
even while a request is in flight.
"""

from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from tests.protocol.search import Step, Verdict, Writer, search

NOBODY = 0
Version = Hashable


class Data(NamedTuple):
    """The contents of the database; the sets hold numbers of writers."""

    outbox: frozenset[int] = frozenset()
    """Writers whose events are waiting."""
    delivery: Version = None
    due: bool = False
    lease: int = NOBODY
    kept: frozenset[int] = frozenset()
    """Writers whose changes are in the database."""
    dead: frozenset[int] = frozenset()
    """Writers whose changes an unresolved dead letter reports."""


class Worker(NamedTuple):
    """A worker and the token and version that it remembers."""

    step: Step = Step.IDLE
    token: int = NOBODY
    version: Version = None


class State(NamedTuple):
    """The state of the model."""

    writers: tuple[Writer, ...]
    workers: tuple[Worker, ...]
    data: Data = Data()
    replica: Data = Data()
    covered: frozenset[int] = frozenset()
    """Writers whose changes were followed by a successful request."""
    claims: int = 0
    zombies: int = 0
    failovers: int = 0
    purges: int = 0
    fresh: int = 1
    """The next unused token or version."""


@dataclass(frozen=True, slots=True)
class Failover:
    """The variant of the protocol and the limits of the search."""

    drawn: bool = True
    """Whether versions are drawn at random."""
    supersedes_own: bool = True
    """Whether a request supersedes dead letters only if its delivery has not changed since."""
    writers: int = 3
    workers: int = 2
    claims: int = 3
    zombies: int = 1
    failovers: int = 1
    purges: int = 0

    def search(self) -> tuple[Verdict | None, int]:
        """Returns the first fault found in any interleaving, and the number of states visited."""
        start = State((Writer.IDLE,) * self.writers, (Worker(),) * self.workers)
        return search(start, lambda state: map(self.canonical, self.steps(state)), judge)

    def steps(self, state: State) -> Iterator[State]:
        """Yields every possible next state."""
        data = state.data
        yield from write(state)
        if data.outbox:
            version = ("drawn", state.fresh) if self.drawn else len(data.outbox) + count_of(data.delivery)
            yield state._replace(data=data._replace(outbox=frozenset(), delivery=version, due=True))
        for place, worker in enumerate(state.workers):
            yield from self.work(state, place, worker)
            if worker.step is not Step.IDLE:
                yield at(state, place, Worker())  # a crash
        if data.lease != NOBODY:
            alive = any(worker.token == data.lease for worker in state.workers)
            if not alive or state.zombies < self.zombies:
                yield state._replace(data=data._replace(lease=NOBODY), zombies=state.zombies + alive)
        if state.purges < self.purges and (data.outbox or data.delivery is not None):
            yield purge(state)
        if state.failovers < self.failovers and state.replica != data:
            yield state._replace(replica=data)
            ended = tuple(Writer.ENDED if writer is Writer.INSERTED else writer for writer in state.writers)
            yield state._replace(data=state.replica, writers=ended, failovers=state.failovers + 1)

    def work(self, state: State, place: int, worker: Worker) -> Iterator[State]:
        """Yields the states that the worker's next step can lead to."""
        data = state.data
        match worker.step:
            case Step.IDLE:
                if data.due and data.lease == NOBODY and data.delivery is not None and state.claims < self.claims:
                    claimed = at(state, place, Worker(Step.CLAIMED, state.fresh, data.delivery))
                    yield claimed._replace(data=data._replace(lease=state.fresh), claims=state.claims + 1)
            case Step.CLAIMED:
                if data.lease == worker.token and data.delivery not in (None, worker.version):
                    yield at(state, place, worker._replace(version=data.delivery))  # a pull
                for step in (Step.ANSWERED, Step.FAILED):  # or the answer is lost
                    sent = at(state, place, worker._replace(step=step))
                    yield sent._replace(covered=state.covered | data.kept)
            case _:
                yield self.settle(state, place, worker)

    def settle(self, state: State, place: int, worker: Worker) -> State:
        """If the lease is still ours, deletes the delivery if it was delivered and has not changed, and gives the lease back."""
        data, gone = state.data, at(state, place, Worker())
        if data.lease != worker.token:
            return gone
        answered = worker.step is Step.ANSWERED
        delivered = answered and data.delivery == worker.version
        delivery = None if delivered else data.delivery
        dead = frozenset() if delivered or (answered and not self.supersedes_own) else data.dead
        return gone._replace(data=data._replace(delivery=delivery, due=delivery is not None, lease=NOBODY, dead=dead))

    def canonical(self, state: State) -> State:
        """Returns the same state with tokens and drawn versions renumbered, because only their equality matters."""
        names: dict[Version, int] = {NOBODY: NOBODY}

        def name(token: int) -> int:
            return names.setdefault(token, len(names))

        def version(of: Version) -> Version:
            return ("drawn", names.setdefault(of, len(names))) if isinstance(of, tuple) else of

        def data(of: Data) -> Data:
            return of._replace(delivery=version(of.delivery), lease=name(of.lease))

        now, replica = data(state.data), data(state.replica)
        workers = tuple(Worker(w.step, name(w.token), version(w.version)) for w in state.workers)
        return state._replace(data=now, replica=replica, workers=workers, fresh=len(names))


def count_of(delivery: Version) -> int:
    """Returns the number of events in a counted version; 0 for others."""
    return delivery if isinstance(delivery, int) else 0


def write(state: State) -> Iterator[State]:
    """Yields the states that the partners' next steps can lead to."""
    for place, writer in enumerate(state.writers):
        before, after = state.writers[:place], state.writers[place + 1 :]
        if writer is Writer.IDLE:
            yield state._replace(writers=(*before, Writer.INSERTED, *after))
        elif writer is Writer.INSERTED:
            ended = state._replace(writers=(*before, Writer.ENDED, *after))
            yield ended  # rolled back
            data = state.data
            yield ended._replace(data=data._replace(outbox=data.outbox | {place}, kept=data.kept | {place}))


def purge(state: State) -> State:
    """Buries everything waiting, collected or not and under any lease: an operator must look at changes that no request followed."""
    data = state.data
    dead = data.dead | (data.kept - state.covered)
    empty = data._replace(outbox=frozenset(), delivery=None, due=False, dead=dead)
    return state._replace(data=empty, purges=state.purges + 1)


def judge(state: State) -> Verdict | None:
    """Returns the fault of a state in which all writers and workers are done; None if it is correct or they are not done."""
    if any(writer is not Writer.ENDED for writer in state.writers) or state.data.outbox:
        return None
    if any(worker.step is not Step.IDLE for worker in state.workers):
        return None
    if state.data.delivery is None:
        return None if state.data.kept <= state.covered | state.data.dead else Verdict.LOST
    return Verdict.STRANDED if state.data.lease == NOBODY and not state.data.due else None


def at(state: State, place: int, worker: Worker) -> State:
    """Returns the state with this worker at `place`."""
    return state._replace(workers=(*state.workers[:place], worker, *state.workers[place + 1 :]))
