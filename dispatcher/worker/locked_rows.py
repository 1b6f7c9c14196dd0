"""Installations whose rows another session keeps locked, such as a support session: they wait, the others do not."""

from collections.abc import Iterable

from dispatcher.store import Answer

RETRY_SECONDS = 1.0
"""A locked row is tried again after this time."""


class LockedRows:
    """When each locked row is tried again, and the answers that wait for it. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._retry_at: dict[str, float] = {}
        self._answers: list[Answer] = []

    def note(self, installation_ids: Iterable[str], now: float) -> None:
        """Records that the rows of these installations were locked."""
        self._retry_at.update(dict.fromkeys(installation_ids, now + RETRY_SECONDS))

    def has(self, installation_id: str, now: float) -> bool:
        """Whether the installation's row was locked and is not to be tried again yet."""
        return self._retry_at.get(installation_id, now) > now

    def keep(self, answer: Answer) -> None:
        """Keeps an answer until its installation's row is tried again."""
        self._answers.append(answer)

    def take(self, now: float) -> list[Answer]:
        """Removes and returns the answers that need not wait any longer."""
        self._retry_at = {one: retry_at for one, retry_at in self._retry_at.items() if retry_at > now}
        answers, self._answers = self._answers, []
        ready: list[Answer] = []
        for answer in answers:
            (self._answers if self.has(answer.delivery.subject.installation_id, now) else ready).append(answer)
        return ready

    def retry(self) -> None:
        """Makes all rows ready to be tried again."""
        self._retry_at.clear()
