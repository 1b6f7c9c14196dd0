"""Makes text from elsewhere fit for logs and tables: readable, one line, of limited length, without the credential. Pure."""

import base64
import html
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby

REDACTED = "[redacted]"
MAX_TEXT_LENGTH = 2_000
MIN_FRAGMENT_LENGTH = 8
"""The number of consecutive characters of the credential that are redacted. Fewer reveal little and occur in harmless text."""

_ESCAPE = re.compile(r"[%&\\]")
# One character, escaped for a URL, JSON or HTML, possibly twice.
_ESCAPED = re.compile(
    r"%(?:25)*(?P<percent>[0-9a-f]{2})|\\+u(?P<json>[0-9a-f]{4})|\\+x(?P<hex>[0-9a-f]{2})|\\+(?P<itself>[\"'/\\])"
    r"|&(?:amp;)*(?P<html>\#[0-9]{1,7};|\#x[0-9a-f]{1,6};|[a-z]{2,6};)",
    re.IGNORECASE,
)
_WORD = re.compile(r"[\w-]")
_MIN_ENCODED_LENGTH = 6
"""Shorter encoded fragments occur in harmless text and are kept."""


def clean(text: str, secret: str, limit: int = MAX_TEXT_LENGTH) -> str:
    """Returns `text` on one line of at most `limit` characters, without control characters and without `secret` or parts of it."""
    if not text.isprintable():
        text = "".join(char if char.isprintable() else " " if char.isspace() else "" for char in text)
    # Cut before the search, to search less: a fragment of the secret that the cut leaves is found like any other.
    return redact(" ".join(text.split())[:limit], secret)[:limit].rstrip()


def redact(text: str, secret: str) -> str:
    """Returns `text` without any 8 or more consecutive characters of `secret`, ignoring case. A shorter secret is redacted only as a
    whole word.

    Fragments are also found percent-encoded, escaped for HTML or JSON, in hexadecimal, in base64, and with white space in between.
    """
    if not _may_hold(text, secret):
        return text
    kept: list[str] = []
    end = 0
    for start, stop in _find(text, secret):
        kept += [text[end:start], REDACTED]
        end = stop
    return "".join([*kept, text[end:]])


@dataclass(frozen=True, slots=True)
class _Form:
    """A way to write the secret."""

    fragment: int
    """How many consecutive characters of a spelling are redacted."""
    spellings: str
    """One per line."""
    is_word: bool = False
    """Whether a fragment is redacted only where it is a whole word."""


def _may_hold(text: str, secret: str) -> bool:
    """A quick test without false negatives: if the text is cut into blocks of half a fragment, every fragment contains a whole block."""
    if _ESCAPE.search(text):
        return True
    folded = "".join(text.split()).casefold()
    for form in _forms(secret):
        size, spellings = max(1, form.fragment // 2), form.spellings
        for start in range(
            0, len(folded) - size + 1, size
        ):  # without a generator, because every answer with an id comes by
            if folded[start : start + size] in spellings:
                return True
    return False


class _Folded:
    """A text without case and white space, for the search, with the position of each character in the original."""

    def __init__(self, text: str, pieces: list[tuple[str, int, int]]) -> None:
        self.text = "".join(char for char, _, _ in pieces)
        self.spans = [(start, stop) for _, start, stop in pieces]
        self.original = text

    def is_word(self, first: int, last: int) -> bool:
        """Whether these characters are a whole word of the original."""
        start, stop = self.spans[first][0], self.spans[last][1]
        around = (self.original[max(0, start - 1) : start], self.original[stop : stop + 1])
        return not any(map(_WORD.match, around)) and not any(map(str.isspace, self.original[start:stop]))


def _unescape(text: str) -> Iterator[tuple[str, int, int]]:
    """Yields each character with its start and end in the original."""
    end = 0
    for escaped in _ESCAPED.finditer(text):
        yield from _plain(text, end, escaped.start())
        for char in "".join(_decode(escaped).split()).casefold():
            yield char, escaped.start(), escaped.end()
        end = escaped.end()
    yield from _plain(text, end, len(text))


def _plain(text: str, start: int, stop: int) -> Iterator[tuple[str, int, int]]:
    for index in range(start, stop):
        if not text[index].isspace():
            for char in text[index].casefold():
                yield char, index, index + 1


def _decode(escaped: re.Match[str]) -> str:
    kind, code = escaped.lastgroup, escaped[escaped.lastgroup or 0]
    if kind == "itself":
        return code
    return html.unescape(f"&{code}") if kind == "html" else chr(int(code, 16))


def _find(text: str, secret: str) -> Iterator[tuple[int, int]]:
    """Yields the start and end of each part of the secret in the text, in order and without overlaps."""
    foldings = [_Folded(text, list(_plain(text, 0, len(text))))]
    if _ESCAPE.search(text):
        foldings.append(_Folded(text, list(_unescape(text))))
    hidden = {index for folded in foldings for start, stop in _find_in(folded, secret) for index in range(start, stop)}
    for first, last in _runs(hidden):
        yield first, last + 1


def _find_in(folded: _Folded, secret: str) -> Iterator[tuple[int, int]]:
    for first, last in _runs({index for form in _forms(secret) for index in _mark(folded, form)}):
        yield folded.spans[first][0], folded.spans[last][1]


def _runs(numbers: set[int]) -> Iterator[tuple[int, int]]:
    """Yields the first and last of each run of consecutive numbers."""
    for _, run in groupby(enumerate(sorted(numbers)), lambda pair: pair[1] - pair[0]):
        consecutive = [number for _, number in run]
        yield consecutive[0], consecutive[-1]


def _mark(folded: _Folded, form: _Form) -> Iterator[int]:
    """Yields the index of each character that belongs to a fragment."""
    text, length, spellings = folded.text, form.fragment, form.spellings
    for start in range(len(text) - length + 1):
        if text[start : start + length] in spellings and (
            not form.is_word or folded.is_word(start, start + length - 1)
        ):
            yield from range(start, start + length)


@lru_cache(maxsize=4_096)
def _forms(secret: str) -> tuple[_Form, ...]:
    """Returns every form in which to look for `secret`."""
    encoded, folded = secret.encode(), "".join(secret.split()).casefold()
    length = min(len(folded), MIN_FRAGMENT_LENGTH)
    # Percent-escapes are decoded byte by byte, and forms write + for a space.
    unescaped = "".join(char for char, _, _ in _unescape(secret))
    plain = {folded, unescaped, secret.replace(" ", "+").casefold(), encoded.decode("latin-1").casefold()}
    standard = [_base64_core(encoded, shift) for shift in range(3)]
    urlsafe = [core.translate(str.maketrans("+/", "-_")) for core in standard]
    forms = (
        _Form(length, "\n".join(plain), is_word=length < MIN_FRAGMENT_LENGTH),
        _Form(2 * length, encoded.hex()),
        _Form((8 * length - 4) // 6, "\n".join([*standard, *urlsafe]).casefold()),
    )
    return tuple(form for form in forms if form.fragment >= (1 if form.is_word else _MIN_ENCODED_LENGTH))


def _base64_core(secret: bytes, shift: int) -> str:
    """Returns the base64 of `secret` preceded by `shift` other bytes, without the characters that depend on neighbouring bytes."""
    encoded = base64.b64encode(bytes(shift) + secret).decode("ascii")
    start = (0, 2, 3)[shift]
    end = (shift + len(secret)) * 8 // 6
    return encoded[start:end]
