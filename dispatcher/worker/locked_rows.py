"""Installations whose rows somebody else keeps locked, such as a support session: they wait, and nobody else does."""

from collections.abc import Iterable

from dispatcher.store import Answer

RETRY_SECONDS = 1.0
"""How long such a row is left alone."""


class LockedRows:
    """When each of them is tried again, and the answers that wait until then. Times are monotonic."""

    def __init__(self) -> None:
        self._retry_at: dict[str, float] = {}
        self._answers: list[Answer] = []

    def note(self, installation_ids: Iterable[str], now: float) -> None:
        """These were found locked."""
        self._retry_at.update(dict.fromkeys(installation_ids, now + RETRY_SECONDS))

    def has(self, installation_id: str, now: float) -> bool:
        """Whether it is left alone at this moment."""
        return self._retry_at.get(installation_id, now) > now

    def keep(self, answer: Answer) -> None:
        """An answer for one that is left alone."""
        self._answers.append(answer)

    def take(self, now: float) -> list[Answer]:
        """Returns the answers that need not wait any longer; they are the caller's again."""
        self._retry_at = {one: retry_at for one, retry_at in self._retry_at.items() if retry_at > now}
        answers, self._answers = self._answers, []
        ready: list[Answer] = []
        for answer in answers:
            (self._answers if self.has(answer.delivery.subject.installation_id, now) else ready).append(answer)
        return ready

    def retry(self) -> None:
        """All of them are tried again at once."""
        self._retry_at.clear()
