"""Text from elsewhere, made fit for a log and a table: readable, one line, bounded, without the credential. Pure."""

import base64
import html
from urllib.parse import quote, quote_plus

REDACTED = "[redacted]"
LONGEST_TEXT = 2_000
# A shorter piece of an encoded credential gives nothing away, and would turn up in innocent text.
_SHORTEST_PIECE = 6


def clean(text: str, secret: str, longest: int = LONGEST_TEXT) -> str:
    """`text` on one line, at most `longest` characters, without control characters and `secret`, however encoded."""
    printable = "".join(char if char.isprintable() else " " if char.isspace() else "" for char in text)
    return redact(" ".join(printable.split()), secret)[:longest].rstrip()


def redact(text: str, secret: str) -> str:
    """`text` without `secret`: as it is, percent-encoded, escaped for HTML or JSON, in base64, cut off at the end."""
    forms = secret_forms(secret)
    for form in forms:
        text = text.replace(form, REDACTED)
    squeezed = "".join(text.split())
    if any(form in squeezed for form in forms):
        return f"{REDACTED}: the answer repeated the credential"
    return _redact_tail(text, forms)


def secret_forms(secret: str) -> list[str]:
    """Every form in which `secret` is looked for, longest first."""
    if not secret:
        return []
    forms = {secret, *(form for form in _encoded(secret) if len(form) >= _SHORTEST_PIECE)}
    return sorted(forms, key=len, reverse=True)


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


def _redact_tail(text: str, forms: list[str]) -> str:
    """An answer is read up to a limit; what is left at its very end may be the start of the credential."""
    for form in forms:
        for length in range(min(len(form), len(text)), _SHORTEST_PIECE - 1, -1):
            if text.endswith(form[:length]):
                return text[:-length] + REDACTED
    return text
