"""A model of one installation in a cluster such as Galera, where row locks are local to a node: no session on another node waits for
them. Instead, if two overlapping transactions write the same row, the one that commits second is rolled back and starts again.

Each writer changes a subject of its own. A settlement reads which deliveries are left for the installation and commits its result
later. A collection on another node may commit in between.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from tests.protocol.search import Step, Verdict, Writer, search

NOBODY = 0
Subjects = frozenset[int]


class Worker(NamedTuple):
    """A worker and what it remembers."""

    step: Step = Step.IDLE
    token: int = NOBODY
    claimed: Subjects = frozenset()
    delivered: Subjects = frozenset()
    """Those of `claimed` that were delivered."""
    left: Subjects = frozenset()
    """The deliveries left, as its settlement has read them."""
    overtaken: bool = False
    """Whether another transaction has since committed a row that the settlement writes."""


class State(NamedTuple):
    """The state of the model. Each subject has the number of its writer."""

    writers: tuple[Writer, ...]
    workers: tuple[Worker, ...]
    outbox: Subjects = frozenset()
    deliveries: Subjects = frozenset()
    due: bool = False
    lease: int = NOBODY
    committed: Subjects = frozenset()
    covered: Subjects = frozenset()
    claims: int = 0
    zombies: int = 0


@dataclass(frozen=True, slots=True)
class Cluster:
    """The variant of the protocol and the limits of the search."""

    local: bool = True
    """Whether locks are local to a node."""
    counted: bool = True
    """Whether each collection writes the installation's row."""
    writers: int = 3
    workers: int = 2
    claims: int = 4
    zombies: int = 1

    def search(self) -> tuple[Verdict | None, int]:
        """Returns the first fault found in any interleaving, and the number of states visited."""
        return search(State((Writer.IDLE,) * self.writers, (Worker(),) * self.workers), self.steps, judge)

    def steps(self, state: State) -> Iterator[State]:
        """Yields every possible next state."""
        yield from write(state)
        waits = not self.local and any(worker.step is Step.LOOKED for worker in state.workers)
        if state.outbox and not waits:
            yield self.collect(state)
        for place, worker in enumerate(state.workers):
            yield from self.work(state, place, worker)
            if worker.step is not Step.IDLE:
                yield at(state, place, Worker())  # a crash
        if state.lease != NOBODY:
            alive = any(worker.token == state.lease for worker in state.workers)
            if not alive or state.zombies < self.zombies:
                yield state._replace(lease=NOBODY, zombies=state.zombies + alive)

    def collect(self, state: State) -> State:
        """Moves the events. Writes the installation's row only if that changes it; with `counted`, always, because of its counter."""
        deliveries = state.deliveries | state.outbox
        collected = state._replace(outbox=frozenset(), deliveries=deliveries, due=True)
        return overtake(collected) if self.counted or not state.due else collected

    def work(self, state: State, place: int, worker: Worker) -> Iterator[State]:
        """Yields the states that the worker's next step can lead to."""
        match worker.step:
            case Step.IDLE:
                if state.due and state.lease == NOBODY and state.deliveries and state.claims < self.claims:
                    token = state.claims + 1
                    claimed = at(overtake(state), place, Worker(Step.CLAIMED, token, state.deliveries))
                    yield claimed._replace(lease=token, claims=token)
            case Step.CLAIMED:
                answered = at(state, place, worker._replace(step=Step.ANSWERED, delivered=worker.claimed))
                yield answered._replace(covered=state.covered | worker.claimed)
                yield at(state, place, worker._replace(step=Step.ANSWERED))  # refused
            case Step.ANSWERED:
                looked = worker._replace(step=Step.LOOKED, left=state.deliveries - worker.delivered)
                yield at(state, place, looked if state.lease == worker.token else Worker())
            case _:
                yield settle(state, place, worker)


def overtake(state: State) -> State:
    """The installation's row was committed: a worker that has read it and is about to write it will be rolled back."""
    return state._replace(
        workers=tuple(worker._replace(overtaken=worker.step is Step.LOOKED) for worker in state.workers)
    )


def write(state: State) -> Iterator[State]:
    """Yields the states that the partners' next steps can lead to."""
    for place, writer in enumerate(state.writers):
        if writer is Writer.IDLE:
            ended = state._replace(writers=(*state.writers[:place], Writer.ENDED, *state.writers[place + 1 :]))
            yield ended._replace(outbox=state.outbox | {place}, committed=state.committed | {place})


def settle(state: State, place: int, worker: Worker) -> State:
    """Commits the settlement based on its earlier read and gives the lease back; starts again if it was overtaken."""
    if worker.overtaken:
        return at(state, place, worker._replace(step=Step.ANSWERED, left=frozenset(), overtaken=False))
    settled = at(overtake(state), place, Worker())
    deliveries = state.deliveries - worker.delivered
    return settled._replace(deliveries=deliveries, due=bool(worker.left), lease=NOBODY)


def judge(state: State) -> Verdict | None:
    """Returns the fault of a state in which all writers and workers are done; None if it is correct or they are not done."""
    if any(writer is not Writer.ENDED for writer in state.writers) or state.outbox:
        return None
    if any(worker.step is not Step.IDLE for worker in state.workers):
        return None
    if state.deliveries:
        return Verdict.STRANDED if state.lease == NOBODY and not state.due else None
    return None if state.committed <= state.covered else Verdict.LOST


def at(state: State, place: int, worker: Worker) -> State:
    """Returns the state with this worker at `place`."""
    return state._replace(workers=(*state.workers[:place], worker, *state.workers[place + 1 :]))
