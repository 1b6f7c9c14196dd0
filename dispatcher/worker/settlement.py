"""Settles the answers: writes them together with the new states of their installations, and gives leases back."""

from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta

from dispatcher import store
from dispatcher.database.errors import is_unreachable
from dispatcher.settings.settings import Settings
from dispatcher.store import Answer, InstallationState, Settled
from dispatcher.worker.answers import Answers
from dispatcher.worker.database_thread import DatabaseThread
from dispatcher.worker.lease import HeldLease
from dispatcher.worker.leases import Leases
from dispatcher.worker.pace import Pace


class Settlement:
    """Takes over the sender's answers until they are written."""

    def __init__(
        self,
        thread: DatabaseThread,
        answers: Answers,
        leases: Leases,
        settings: Settings,
        pace: Pace,
        clock: Callable[[], float],
    ) -> None:
        self._thread = thread
        self._answers = answers
        self._leases = leases
        self._settings = settings
        self._pace = pace
        self._clock = clock
        self._lease_time = timedelta(seconds=settings.lease)

    def is_due(self, *, saturated: bool) -> bool:
        """Whether to settle now. A settlement costs about the same for one answer as for many, so answers accumulate while the sender
        is `saturated`.
        """
        oldest = next(iter(self._answers), None)
        if not saturated or oldest is None or len(self._answers) >= self._pace.max_waiting_answers:
            return True
        return self._clock() - oldest.answered_at >= self._pace.answer_wait_seconds

    async def settle(self, *, release_all: bool = False) -> bool:
        """Writes the answers so far, and gives back the leases under which nothing remains to be sent. Returns whether there was an answer.

        Answers of installations whose rows another session keeps locked wait; they are tried again from time to time.
        """
        any_answer = bool(self._answers)
        if release_all:
            self._leases.locked.retry()
        self._answers.put_first(self._leases.locked.take(self._clock()))
        limit = self._thread.database.dialect.max_settled
        while len(batch := self._answers.batch(limit)) < len(self._answers):
            await self._settle(batch, lambda _: False)  # a lease is given back with its last answer, not before
        await self._settle(batch, lambda lease: release_all or lease.is_done(others_wait=self._leases.others_wait))
        return any_answer

    async def _settle(self, batch: list[Answer], releases: Callable[[HeldLease], bool]) -> None:
        """Writes one batch in one transaction. `releases` decides which leases are given back."""
        now = self._clock()
        ours = [answer for answer in batch if self._is_ours(answer)]
        answers = [answer for answer in ours if not self._is_locked(answer, now)]
        for answer in answers:
            answer.age = now - answer.answered_at
        touched = {answer.delivery.subject.installation_id for answer in answers}
        states = [
            lease.state(now, release=release, fresh=self._is_fresh(lease, now))
            for installation_id, lease in sorted(self._leases.held.items())
            if ((release := releases(lease)) or installation_id in touched)
            and not self._leases.locked.has(installation_id, now)
        ]
        settled = await self._write(batch, answers, states) if states else Settled()
        self._answers.remove(batch)
        self._leases.locked.note(settled.locked, now)
        for answer in ours:
            if self._is_locked(answer, now):
                self._leases.locked.keep(answer)
            elif (lease := self._leases.held.get(answer.delivery.subject.installation_id)) is not None:
                lease.held.discard(answer.delivery.subject_key)
        self._apply(settled, [state for state in states if state.installation_id not in settled.locked], now)

    async def _write(self, batch: Sequence[Answer], answers: list[Answer], states: list[InstallationState]) -> Settled:
        try:
            return await self._thread.run(
                store.settle, answers, states, self._lease_time, failures_only=not self._settings.logs_successes
            )
        except Exception as error:
            if not is_unreachable(error) and not self._thread.database.dialect.is_transient(error):
                self._refuse(batch)
            raise

    def _refuse(self, batch: Sequence[Answer]) -> None:
        if (given_up := self._answers.refuse(batch)) is not None:
            for lease in self._leases.held.values():
                lease.held.discard(given_up.delivery.subject_key)

    def _apply(self, settled: Settled, states: Iterable[InstallationState], now: float) -> None:
        """Applies the written states to the leases, except those that a collection has dropped meanwhile."""
        for state in states:
            lease = self._leases.held.get(state.installation_id)
            if state.release:
                self._leases.held.pop(state.installation_id, None)
            elif lease is not None and not state.as_written:
                lease.renew(now + self._settings.lease, state)
        for installation_id in settled.paused & self._leases.held.keys():
            self._leases.held[installation_id].stop(now)
        self._leases.forget(settled.lost)

    def _is_fresh(self, lease: HeldLease, now: float) -> bool:
        """Whether the lease need not be renewed: requests may start under it for a while yet."""
        quarter = self._settings.lease / 4
        return lease.until - now > 3 * quarter and lease.outlasts(now + quarter, self._settings.request_timeout)

    def _is_ours(self, answer: Answer) -> bool:
        lease = self._leases.held.get(answer.delivery.subject.installation_id)
        return lease is not None and lease.token == answer.token

    def _is_locked(self, answer: Answer, now: float) -> bool:
        return self._leases.locked.has(answer.delivery.subject.installation_id, now)
