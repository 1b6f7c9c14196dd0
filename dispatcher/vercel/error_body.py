"""What the body of an error answer says: code, message and rate limit, from whatever was sent. Pure, never raises."""

import html
import json
import re
import zlib
from dataclasses import dataclass

LONGEST_BODY = 8_192
"""Bytes of an error body that are read, and that a compressed one may grow to."""

# Each of these ends at the end of the text at the latest: where no end is found, none is looked for again behind the next beginning.
_HIDDEN = re.compile(
    r"<(script|style)\b.*?(?:</\1\s*>|\Z)|<head\b.*?(?:</head\s*>|(?=<body\b)|\Z)|<!--.*?(?:-->|\Z)",
    re.DOTALL | re.IGNORECASE,
)
_TITLE = re.compile(r"<title\b[^<>]*>([^<]*)", re.IGNORECASE)
_TAG = re.compile(r"<[^<>]*>?")
_MARKUP = re.compile(r"\s*<(!doctype|html|head|body|\?xml)\b", re.IGNORECASE)
_GZIP_OR_ZLIB = 32 + zlib.MAX_WBITS
_MOSTLY = 0.7


@dataclass(frozen=True, slots=True)
class ErrorBody:
    """`code` and `message` as sent, neither cleaned nor redacted; `limit` is the raw `error.limit`."""

    code: str | None = None
    message: str | None = None
    limit: object = None


def read_error_body(body: bytes, encoding: str = "") -> ErrorBody:
    """The best reading of an error body: Vercel's JSON, other JSON, HTML, plain text; empty if nothing is readable."""
    plain = _decompress(body, encoding)
    text = plain.decode("utf-8", errors="replace")
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return ErrorBody(message=_read_text(text))
    return _read_document(document) or ErrorBody(message=_read_text(text))


def _decompress(body: bytes, encoding: str) -> bytes:
    coding = encoding.strip().lower()
    if coding in ("", "identity"):
        return body
    if coding not in ("gzip", "x-gzip", "deflate"):
        return b""
    try:
        return zlib.decompressobj(_GZIP_OR_ZLIB).decompress(body, LONGEST_BODY)
    except zlib.error:
        return b""


def _read_document(document: object) -> ErrorBody | None:
    if not isinstance(document, dict):
        return None
    inner = next((document[key] for key in ("error", "err") if document.get(key)), document)
    if isinstance(inner, str):
        described = document.get("error_description") or document.get("message")
        return ErrorBody(code=inner, message=described if isinstance(described, str) else inner)
    if not isinstance(inner, dict):
        return None
    code, message = inner.get("code"), inner.get("message")
    code = code if isinstance(code, str) else None
    message = message if isinstance(message, str) else None
    return ErrorBody(code, message, inner.get("limit")) if code or message else None


def _read_text(text: str) -> str | None:
    if _MARKUP.match(text):
        text = _read_markup(text)
    readable = sum(char.isspace() or (char.isprintable() and char != "\N{REPLACEMENT CHARACTER}") for char in text)
    return text if text.strip() and readable >= _MOSTLY * len(text) else None


def _read_markup(text: str) -> str:
    title = _TITLE.search(text)
    words = _TAG.sub(" ", _HIDDEN.sub(" ", text)).strip()
    return html.unescape(": ".join(part for part in (title[1].strip() if title else "", words) if part))
