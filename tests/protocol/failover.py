"""The same protocol on a database that can fail over to an asynchronous replica: commits of any kind may vanish, ids and counts repeat.

A failover puts the database back to what the replica has: outbox, delivery, lease, and the partners' own changes. Workers are clients:
they remember what they read before. What the database lost is lost; of what it kept, nothing may be.

A worker pulls: under the lease that it holds, it reads the delivery anew. The version of a delivery is drawn by each collection, or
counts the events that were collected into the row. An operator may purge: what waits becomes a dead letter, whatever is in flight.
"""

from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from tests.protocol.search import Step, Verdict, Writer, search

NOBODY = 0
Version = Hashable


class Data(NamedTuple):
    """What the database holds. `outbox`, `kept` and `dead` name writers: whose events wait, whose changes are there, and of which of
    these a dead letter tells that nobody has resolved."""

    outbox: frozenset[int] = frozenset()
    delivery: Version = None
    due: bool = False
    lease: int = NOBODY
    kept: frozenset[int] = frozenset()
    dead: frozenset[int] = frozenset()


class Worker(NamedTuple):
    """A worker, and the token and version that it remembers."""

    step: Step = Step.IDLE
    token: int = NOBODY
    version: Version = None


class State(NamedTuple):
    """Everything that matters. `covered`: the writers whose changes a request that succeeded came after."""

    writers: tuple[Writer, ...]
    workers: tuple[Worker, ...]
    data: Data = Data()
    replica: Data = Data()
    covered: frozenset[int] = frozenset()
    claims: int = 0
    zombies: int = 0
    failovers: int = 0
    purges: int = 0
    fresh: int = 1
    """A number that nothing has yet."""


@dataclass(frozen=True, slots=True)
class Failover:
    """Whether versions are drawn, whether only a delivery that is as its request knew it supersedes, and how far the search goes."""

    drawn: bool = True
    supersedes_own: bool = True
    writers: int = 3
    workers: int = 2
    claims: int = 3
    zombies: int = 1
    failovers: int = 1
    purges: int = 0

    def search(self) -> tuple[Verdict | None, int]:
        """The first thing that goes wrong in any interleaving, and how many states were seen."""
        start = State((Writer.IDLE,) * self.writers, (Worker(),) * self.workers)
        return search(start, lambda state: map(self.canonical, self.steps(state)), judge)

    def steps(self, state: State) -> Iterator[State]:
        """Every state that can come next."""
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
        """What this worker may do."""
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
        """Deletes what was delivered if it is as the request knew it, and gives the lease back, if it is still ours."""
        data, gone = state.data, at(state, place, Worker())
        if data.lease != worker.token:
            return gone
        answered = worker.step is Step.ANSWERED
        delivered = answered and data.delivery == worker.version
        delivery = None if delivered else data.delivery
        dead = frozenset() if delivered or (answered and not self.supersedes_own) else data.dead
        return gone._replace(data=data._replace(delivery=delivery, due=delivery is not None, lease=NOBODY, dead=dead))

    def canonical(self, state: State) -> State:
        """The same state with tokens and drawn versions renumbered: only whether two are equal matters."""
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
    """The events that a counted version stands for."""
    return delivery if isinstance(delivery, int) else 0


def write(state: State) -> Iterator[State]:
    """What the partners' transactions may do."""
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
    """Buries what waits, collected or not, under whatever lease: a person has to look at the changes that no request came after."""
    data = state.data
    dead = data.dead | (data.kept - state.covered)
    empty = data._replace(outbox=frozenset(), delivery=None, due=False, dead=dead)
    return state._replace(data=empty, purges=state.purges + 1)


def judge(state: State) -> Verdict | None:
    """Whether something is wrong now that nothing moves any more."""
    if any(writer is not Writer.ENDED for writer in state.writers) or state.data.outbox:
        return None
    if any(worker.step is not Step.IDLE for worker in state.workers):
        return None
    if state.data.delivery is None:
        return None if state.data.kept <= state.covered | state.data.dead else Verdict.LOST
    return Verdict.STRANDED if state.data.lease == NOBODY and not state.data.due else None


def at(state: State, place: int, worker: Worker) -> State:
    """The state with this worker in its place."""
    return state._replace(workers=(*state.workers[:place], worker, *state.workers[place + 1 :]))
