"""Answers in the batches in which the database takes them; a settlement that it refuses is tried in ever smaller parts."""

from collections.abc import Sequence

from dispatcher.store import Answer

MAX_TEXT = 500_000
"""Characters of the answers that are settled together: MySQL refuses a statement longer than `max_allowed_packet`, often 4 MiB."""


class Refusals:
    """What the database refuses once it would refuse for ever, and every other answer of the settlement with it.

    So that is tried again without the answers' texts, which the database may not be able to hold, then one answer at a time; one that
    is refused even so is given up: it is sent again.
    """

    def __init__(self) -> None:
        self._in_a_row = 0

    def first(self, answers: Sequence[Answer], at_once: int) -> list[Answer]:
        """As many of the first answers as one settlement writes."""
        most, length = 1 if self._in_a_row > 1 else at_once, 0
        for number, answer in enumerate(answers[:most]):
            length += len(answer.outcome.error or "")
            if number and length > MAX_TEXT:
                return list(answers[:number])
        return list(answers[:most])

    def note(self, taken: Sequence[Answer]) -> Answer | None:
        """Their settlement was refused. Returns the answer that is given up, if that is the end of it."""
        self._in_a_row += 1
        if self._in_a_row == 1:
            for answer in taken:
                answer.outcome = answer.outcome._replace(error=None, error_code=None, vercel_id=None)
        elif len(taken) == 1:
            self._in_a_row = 0
            return taken[0]
        return None

    def end(self) -> None:
        """Nothing waits that was refused."""
        self._in_a_row = 0
