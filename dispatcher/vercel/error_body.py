"""Reads the body of an error answer: code, message and rate limit. Pure; never raises, whatever was sent."""

import html
import json
import re
import zlib
from dataclasses import dataclass

MAX_BODY_BYTES = 8_192
"""How much is read of an error body, and of a compressed one after decompression."""

_HTML = re.compile(r"\s*(?:<\?xml[^>]*>\s*)?<(?:!doctype\s+html|html|head|body)\b", re.IGNORECASE)
_TITLE = re.compile(r"<title\b[^<>]*>([^<]*)", re.IGNORECASE)
_GZIP_OR_ZLIB = 32 + zlib.MAX_WBITS
_MIN_READABLE_SHARE = 0.7


@dataclass(frozen=True, slots=True)
class ErrorBody:
    """The content of an error body as it was sent, neither cleaned nor redacted."""

    code: str | None = None
    message: str | None = None
    limit: object = None
    """The `limit` object of the error, which describes the rate window."""


def read_error_body(body: bytes, encoding: str = "") -> ErrorBody:
    """Returns what is readable of an error body: Vercel's JSON, other JSON, the title of an HTML page, or plain text."""
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
        return zlib.decompressobj(_GZIP_OR_ZLIB).decompress(body, MAX_BODY_BYTES)
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
    if _HTML.match(text):
        text = _describe_page(text)
    readable = sum(char.isspace() or (char.isprintable() and char != "\N{REPLACEMENT CHARACTER}") for char in text)
    return text if text.strip() and readable >= _MIN_READABLE_SHARE * len(text) else None


def _describe_page(page: str) -> str:
    title = _TITLE.search(page)
    words = html.unescape(title[1]).strip() if title else ""
    return f"an HTML page: {words}" if words else "an HTML page"
