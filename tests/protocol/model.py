"""A model of the protocol for one subject of one installation, and a search through all its interleavings.

Writers insert events and commit or roll back. A collector moves committed events into one delivery (its version counts them) and makes
the installation due. A worker leases the due installation, remembers the version, sends, settles and gives the lease back. Vercel reads
the partner's state the moment the request starts, which is the worst case. Workers crash, answers get lost, and leases expire while
their workers are still alive.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from tests.protocol.search import Step, Verdict, Writer, search

NOBODY = 0


class Worker(NamedTuple):
    """A worker and what it remembers."""

    step: Step = Step.IDLE
    token: int = NOBODY
    version: int = 0
    saw_delivery: bool = False
    """In the variant without the lock: whether a delivery was left when it looked."""


class State(NamedTuple):
    """The state of the model."""

    writers: tuple[Writer, ...]
    workers: tuple[Worker, ...]
    outbox: int = 0
    delivery: int | None = None
    """The delivery's version."""
    due: bool = False
    lease: int = NOBODY
    committed: int = 0
    seen: int = 0
    """How many commits Vercel's last read covers."""
    claims: int = 0
    zombies: int = 0


@dataclass(frozen=True, slots=True)
class Protocol:
    """The guards, each of which can be removed, and the limits of the search."""

    token: bool = True
    version: bool = True
    lock: bool = True
    writers: int = 2
    workers: int = 2
    claims: int = 4
    zombies: int = 2

    def search(self) -> tuple[Verdict | None, int]:
        """Returns the first fault found in any interleaving, and the number of states visited."""
        start = State((Writer.IDLE,) * self.writers, (Worker(),) * self.workers)
        return search(start, lambda state: map(canonical, self.steps(state)), judge)

    def steps(self, state: State) -> Iterator[State]:
        """Yields every possible next state."""
        yield from write(state)
        for taken in range(1, state.outbox + 1):
            yield state._replace(outbox=state.outbox - taken, delivery=(state.delivery or 0) + taken, due=True)
        for place, worker in enumerate(state.workers):
            yield from self.work(state, place, worker)
            if worker.step is not Step.IDLE:
                yield at(state, place, Worker())  # a crash
        if state.lease != NOBODY:
            alive = any(worker.token == state.lease for worker in state.workers)
            if not alive or state.zombies < self.zombies:
                yield state._replace(lease=NOBODY, zombies=state.zombies + alive)

    def work(self, state: State, place: int, worker: Worker) -> Iterator[State]:
        """Yields the states that the worker's next step can lead to."""
        match worker.step:
            case Step.IDLE:
                yield from self.claim(state, place)
            case Step.CLAIMED:
                yield at(state, place, worker._replace(step=Step.ANSWERED))._replace(seen=state.committed)
                yield at(state, place, worker._replace(step=Step.FAILED))._replace(seen=state.committed)  # answer lost
                yield at(state, place, worker._replace(step=Step.FAILED))  # refused
            case Step.ANSWERED | Step.FAILED:
                yield self.settle(state, place, worker)
            case Step.LOOKED:
                gone = at(state, place, Worker())
                yield gone._replace(due=worker.saw_delivery, lease=NOBODY) if state.lease == worker.token else gone

    def claim(self, state: State, place: int) -> Iterator[State]:
        """Takes the lease if the installation is due."""
        if state.due and state.lease == NOBODY and state.delivery is not None and state.claims < self.claims:
            token = 1 + max(state.lease, *(worker.token for worker in state.workers))
            claimed = at(state, place, Worker(Step.CLAIMED, token, state.delivery))
            yield claimed._replace(lease=token, claims=state.claims + 1)

    def settle(self, state: State, place: int, worker: Worker) -> State:
        """Deletes the delivery if it was delivered; with the lock, gives the lease back in the same transaction."""
        ours = state.lease == worker.token or not self.token
        same = state.delivery == worker.version or not self.version
        delivery = None if worker.step is Step.ANSWERED and ours and same else state.delivery
        if not self.lock:  # it waits for the row, then reads with the snapshot taken before the wait
            looked = worker._replace(step=Step.LOOKED, saw_delivery=delivery is not None)
            return at(state, place, looked)._replace(delivery=delivery)
        settled = at(state, place, Worker())._replace(delivery=delivery)
        return settled._replace(due=delivery is not None, lease=NOBODY) if state.lease == worker.token else settled


def write(state: State) -> Iterator[State]:
    """Yields the states that the partners' next steps can lead to."""
    for place, writer in enumerate(state.writers):
        before, after = state.writers[:place], state.writers[place + 1 :]
        if writer is Writer.IDLE:
            yield state._replace(writers=(*before, Writer.INSERTED, *after))
        elif writer is Writer.INSERTED:
            ended = state._replace(writers=(*before, Writer.ENDED, *after))
            yield ended  # rolled back
            yield ended._replace(outbox=state.outbox + 1, committed=state.committed + 1)


def judge(state: State) -> Verdict | None:
    """Returns the fault of a state in which all writers and workers are done; None if it is correct or they are not done."""
    if any(writer is not Writer.ENDED for writer in state.writers) or state.outbox:
        return None
    if any(worker.step is not Step.IDLE for worker in state.workers):
        return None
    if state.delivery is None:
        return Verdict.LOST if state.seen != state.committed else None
    return Verdict.STRANDED if state.lease == NOBODY and not state.due else None


def at(state: State, place: int, worker: Worker) -> State:
    """Returns the state with this worker at `place`."""
    return state._replace(workers=(*state.workers[:place], worker, *state.workers[place + 1 :]))


def canonical(state: State) -> State:
    """Returns the same state with its tokens renumbered, because only their equality matters."""
    names = {NOBODY: NOBODY}
    lease = names.setdefault(state.lease, len(names))
    workers = tuple(w._replace(token=names.setdefault(w.token, len(names))) for w in state.workers)
    return state._replace(lease=lease, workers=workers)
