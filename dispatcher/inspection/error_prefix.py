"""The beginning that the errors of one cause have in common."""

import re
from collections.abc import Iterable

MAX_PREFIX_LENGTH = 200
"""Characters of an error that are compared; the prefix of a filter may be longer."""
_NUMBER = re.compile(r"(?<![A-Za-z0-9])[A-Za-z]*[0-9]")
"""A number, with the letters before it: hexadecimal ids begin with either."""


def error_prefix(error: str, ids: Iterable[str | None], at_least: int = 0) -> str:
    """Returns the error up to the first number or the first of these ids in it, but at least this many characters.

    It is never without its first character: the empty prefix would select every error.
    """
    number = _NUMBER.search(error, 1)
    ends = [_find(error, id_) for id_ in ids if id_] + ([number.start()] if number else [])
    return error[: max(at_least, min(filter(None, ends), default=MAX_PREFIX_LENGTH))]


def _find(error: str, id_: str) -> int | None:
    """Returns where the id stands in the error as a word of its own, after the first character; None if it does not."""
    start = error.find(id_, 1)
    end = start + len(id_)
    is_word = start > 0 and not error[start - 1].isalnum() and not error[end : end + 1].isalnum()
    return start if is_word else None
