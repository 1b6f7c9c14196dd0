"""The answers that wait to be settled, in batches that the database accepts."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from dispatcher.store import Answer


class Answers:
    """The waiting answers, oldest first.

    The database would refuse a refused batch forever, and with it every later answer. So the batch is retried without the answers' texts,
    which the database may not be able to store, and then one answer at a time. An answer that is refused even then is given up: its
    delivery is sent again. The texts of a batch have at most `max_characters`, unless a single answer's have more.
    """

    def __init__(self, max_characters: int) -> None:
        self._max_characters = max_characters
        self._waiting: list[Answer] = []
        self._refusals = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[Answer]:
        return iter(self._waiting)

    def add(self, answer: Answer) -> None:
        """Appends an answer, newer than the others."""
        self._waiting.append(answer)

    def put_first(self, answers: Iterable[Answer]) -> None:
        """Puts back answers that are older than the others."""
        self._waiting[:0] = answers

    def batch(self, limit: int) -> list[Answer]:
        """Returns the oldest answers, as many as one settlement can write, at most `limit`."""
        limit, length = 1 if self._refusals > 1 else limit, 0
        for number, answer in enumerate(self._waiting[:limit]):
            length += len(answer.outcome.error or "")
            if number and length > self._max_characters:
                return self._waiting[:number]
        return self._waiting[:limit]

    def remove(self, batch: Sequence[Answer]) -> None:
        """Removes a batch that was settled."""
        del self._waiting[: len(batch)]
        if not self._waiting:
            self._refusals = 0

    def refuse(self, batch: Sequence[Answer]) -> Answer | None:
        """Records that the database refused the batch. Removes and returns the answer that is given up, if any."""
        self._refusals += 1
        if self._refusals == 1:
            self._waiting[: len(batch)] = map(_without_texts, batch)
        elif len(batch) == 1:
            self._refusals = 0
            return self._waiting.pop(0)
        return None


def _without_texts(answer: Answer) -> Answer:
    """Returns a copy: the answer itself may not have been reported yet."""
    return replace(answer, outcome=answer.outcome._replace(error=None, error_code=None, vercel_id=None))
