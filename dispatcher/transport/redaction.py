"""Text from elsewhere, made fit for a log and a table: readable, one line, bounded, without the credential. Pure."""

import base64
import html
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby

REDACTED = "[redacted]"
LONGEST_TEXT = 2_000
SHORTEST_FRAGMENT = 8
"""Characters of the credential in a row that are redacted. Fewer give little away, and occur in innocent text."""

_ESCAPE = re.compile(r"[%&\\]")
# One character, escaped for a URL, JSON or HTML, perhaps twice over.
_ESCAPED = re.compile(
    r"%(?:25)*(?P<percent>[0-9a-f]{2})|\\+u(?P<json>[0-9a-f]{4})|\\+x(?P<hex>[0-9a-f]{2})|\\+(?P<itself>[\"'/\\])"
    r"|&(?:amp;)*(?P<html>\#[0-9]{1,7};|\#x[0-9a-f]{1,6};|[a-z]{2,6};)",
    re.IGNORECASE,
)
_WORD = re.compile(r"[\w-]")
# A shorter encoded fragment would turn up in innocent text.
_SHORTEST_ENCODED = 6


def clean(text: str, secret: str, longest: int = LONGEST_TEXT) -> str:
    """`text` on one line, at most `longest` characters, without control characters and without `secret`, whole or in part."""
    if not text.isprintable():
        text = "".join(char if char.isprintable() else " " if char.isspace() else "" for char in text)
    # What is cut off is not searched: a fragment of the secret that the cut leaves is found like any other.
    return redact(" ".join(text.split())[:longest], secret)[:longest].rstrip()


def redact(text: str, secret: str) -> str:
    """`text` without any eight or more consecutive characters of `secret`, whatever their case; a shorter secret as a word of its own.

    They are also found percent-encoded, escaped for HTML or JSON, in hexadecimal, in base64, and with white space in between.
    """
    if not _may_hold(text, secret):
        return text
    kept: list[str] = []
    end = 0
    for start, stop in _find(_Folded(text), secret):
        kept += [text[end:start], REDACTED]
        end = stop
    return "".join([*kept, text[end:]])


@dataclass(frozen=True, slots=True)
class _Form:
    """`fragment` consecutive characters of any of the `spellings`, a line each, give something of the secret away."""

    fragment: int
    spellings: str
    is_word: bool = False
    """Whether they count only where they are a word of their own."""


def _may_hold(text: str, secret: str) -> bool:
    """A quick look: every fragment holds a whole block of half its length, if the text is cut into such blocks."""
    if _ESCAPE.search(text):
        return True
    folded = "".join(text.split()).casefold()
    for form in _forms(secret):
        size = max(1, form.fragment // 2)
        if any(folded[start : start + size] in form.spellings for start in range(0, len(folded) - size + 1, size)):
            return True
    return False


class _Folded:
    """A text as the search reads it: without escapes, case and white space; knows where each character stood in the original."""

    def __init__(self, text: str) -> None:
        pieces = list(_unescape(text))
        self.text = "".join(char for char, _, _ in pieces)
        self.spans = [(start, stop) for _, start, stop in pieces]
        self.original = text

    def is_word(self, first: int, last: int) -> bool:
        """Whether these characters stand together in the original, and no others touch them."""
        start, stop = self.spans[first][0], self.spans[last][1]
        around = (self.original[max(0, start - 1) : start], self.original[stop : stop + 1])
        return not any(map(_WORD.match, around)) and not any(map(str.isspace, self.original[start:stop]))


def _unescape(text: str) -> Iterator[tuple[str, int, int]]:
    """Each character with where it began and ended."""
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


def _find(folded: _Folded, secret: str) -> Iterator[tuple[int, int]]:
    """Where in the original text parts of the secret begin and end, in order and apart."""
    marked = sorted({index for form in _forms(secret) for index in _mark(folded, form)})
    for _, run in groupby(enumerate(marked), lambda pair: pair[1] - pair[0]):
        indexes = [index for _, index in run]
        yield folded.spans[indexes[0]][0], folded.spans[indexes[-1]][1]


def _mark(folded: _Folded, form: _Form) -> Iterator[int]:
    """The characters that belong to a fragment."""
    text, length, spellings = folded.text, form.fragment, form.spellings
    for start in range(len(text) - length + 1):
        if text[start : start + length] in spellings and (
            not form.is_word or folded.is_word(start, start + length - 1)
        ):
            yield from range(start, start + length)


@lru_cache(maxsize=4_096)
def _forms(secret: str) -> tuple[_Form, ...]:
    """Every form in which `secret` is looked for."""
    encoded, folded = secret.encode(), "".join(secret.split()).casefold()
    length = min(len(folded), SHORTEST_FRAGMENT)
    # Percent-escapes are decoded byte by byte, and a form writes + for a space.
    plain = {folded, secret.replace(" ", "+").casefold(), encoded.decode("latin-1").casefold()}
    standard = [_base64_core(encoded, shift) for shift in range(3)]
    urlsafe = [core.translate(str.maketrans("+/", "-_")) for core in standard]
    forms = (
        _Form(length, "\n".join(plain), is_word=length < SHORTEST_FRAGMENT),
        _Form(2 * length, encoded.hex()),
        _Form((8 * length - 4) // 6, "\n".join([*standard, *urlsafe]).casefold()),
    )
    return tuple(form for form in forms if form.fragment >= (1 if form.is_word else _SHORTEST_ENCODED))


def _base64_core(secret: bytes, shift: int) -> str:
    """The base64 of `secret` behind `shift` other bytes, without the characters that depend on its neighbours."""
    encoded = base64.b64encode(bytes(shift) + secret).decode("ascii")
    start = (0, 2, 3)[shift]
    end = (shift + len(secret)) * 8 // 6
    return encoded[start:end]
