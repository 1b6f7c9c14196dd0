"""Text from elsewhere, made fit for a log and a table: readable, one line, bounded, without the credential. Pure."""

import base64
import html
from functools import lru_cache
from urllib.parse import quote, quote_plus

REDACTED = "[redacted]"
LONGEST_TEXT = 2_000
# A shorter piece of an encoded credential gives nothing away, and would turn up in innocent text.
_SHORTEST_PIECE = 6


def clean(text: str, secret: str, longest: int = LONGEST_TEXT, *, cut: bool = False) -> str:
    """`text` on one line, at most `longest` characters, without control characters and `secret`, however encoded.

    `cut`: the text was cut off somewhere before, so that it may end in the beginning of the secret.
    """
    if not text.isprintable():
        text = "".join(char if char.isprintable() else " " if char.isspace() else "" for char in text)
    text = redact(" ".join(text.split()), secret)
    return (redact_end(text, secret) if cut else text)[:longest].rstrip()


def redact(text: str, secret: str) -> str:
    """`text` without `secret`: as it is, percent-encoded, escaped for HTML or JSON, in base64, with spaces strewn in."""
    forms = secret_forms(secret)
    for form in forms:
        text = text.replace(form, REDACTED)
    squeezed = "".join(text.split())
    if any(form in squeezed for form in forms):
        return f"{REDACTED}: the answer repeated the credential"
    return text


def redact_end(text: str, secret: str) -> str:
    """`text` without the beginning of `secret` that it may end in."""
    for form in secret_forms(secret):
        for length in range(min(len(form), len(text)), _SHORTEST_PIECE - 1, -1):
            if text.endswith(form[:length]):
                return text[:-length] + REDACTED
    return text


@lru_cache(maxsize=4_096)
def secret_forms(secret: str) -> tuple[str, ...]:
    """Every form in which `secret` is looked for, longest first."""
    if not secret:
        return ()
    forms = {secret, *(form for form in _encoded(secret) if len(form) >= _SHORTEST_PIECE)}
    return tuple(sorted(forms, key=len, reverse=True))


def _encoded(secret: str) -> set[str]:
    percent = {quote(secret, safe=""), quote(secret), quote_plus(secret)}
    escaped = {html.escape(secret), secret.replace("\\", "\\\\").replace('"', '\\"'), secret.replace("/", "\\/")}
    plain = {_base64_core(secret.encode(), shift) for shift in range(3)}
    urlsafe = {core.translate(str.maketrans("+/", "-_")) for core in plain}
    return percent | {form.lower() for form in percent if "%" in form} | escaped | plain | urlsafe


def _base64_core(secret: bytes, shift: int) -> str:
    """What base64 makes of `secret` behind `shift` other bytes, without characters that depend on neighbours."""
    encoded = base64.b64encode(bytes(shift) + secret).decode("ascii")
    start = (0, 2, 3)[shift]
    end = (shift + len(secret)) * 8 // 6
    return encoded[start:end]
