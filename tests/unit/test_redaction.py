"""No eight consecutive characters of the credential remain in a text, whatever their spelling."""

import base64
import html
import json
from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dispatcher.transport.redaction import MAX_TEXT_LENGTH, REDACTED, clean

TOKEN = "vcp_t0kenAb1234EfGh678/IjKl+90"
ECHOES = {
    "whole": TOKEN,
    "all but the last": TOKEN[:-1],
    "all but the first": TOKEN[1:],
    "its beginning": f"{TOKEN[:8]}…",
    "its middle": TOKEN[9:17],
    "its end": TOKEN[-8:],
    "beginning and end": f"{TOKEN[:10]}…{TOKEN[-10:]}",
    "a foreign character within": f"{TOKEN[:14]}?{TOKEN[14:]}",
    "lower case": TOKEN.lower(),
    "upper case": TOKEN.upper(),
    "hexadecimal": TOKEN.encode().hex(),
    "upper hexadecimal": TOKEN.encode().hex().upper(),
    "a fragment in hexadecimal": TOKEN[5:14].encode().hex(),
    "percent": quote(TOKEN, safe=""),
    "percent, each": "".join(f"%{ord(char):02X}" for char in TOKEN),
    "percent, twice": quote("".join(f"%{ord(char):02x}" for char in TOKEN)),
    "\\u": "".join(f"\\u{ord(char):04x}" for char in TOKEN),
    "\\U of a fragment": "".join(f"\\u{ord(char):04X}" for char in TOKEN[3:12]),
    "\\\\u": json.dumps("".join(f"\\u{ord(char):04x}" for char in TOKEN)),
    "\\x": "".join(f"\\x{ord(char):02x}" for char in TOKEN),
    "JSON": json.dumps(TOKEN).replace("/", "\\/"),
    "HTML": html.escape(TOKEN),
    "HTML, each": "".join(f"&#{ord(char)};" for char in TOKEN),
    "HTML, each in hexadecimal": "".join(f"&#x{ord(char):x};" for char in TOKEN),
    "base64": base64.b64encode(TOKEN.encode()).decode(),
    "base64 behind a byte": base64.b64encode(b":" + TOKEN.encode()).decode(),
    "base64 behind two bytes": base64.urlsafe_b64encode(b"a:" + TOKEN.encode()).decode(),
    "spaces within": " ".join(TOKEN),
    "lines within": "\r\n".join(TOKEN[at : at + 5] for at in range(0, len(TOKEN), 5)),
    "nothing that is seen within": "\N{ZERO WIDTH SPACE}".join(TOKEN),
}


@pytest.mark.parametrize("echo", ECHOES)
def test_an_echo_is_redacted(echo: str) -> None:
    shown = clean(f'invalid token "{ECHOES[echo]}" was sent', TOKEN)
    assert shown.startswith('invalid token "')
    assert shown.endswith('" was sent')
    assert REDACTED in shown
    rest = shown.replace("invalid token", "").replace("was sent", "").replace(REDACTED, "")
    # In base64, the first and last character also depend on the neighbouring bytes.
    assert len("".join(rest.split()).strip('"…?=\\')) <= 4


@pytest.mark.parametrize("token", ["test", "t0ken", "a", "resourc"])
def test_a_short_test_token_does_not_cut_up_words(token: str) -> None:
    innocent = "the latest attestation of a resource, at 0ken; is a t e s t; test-case, a_b, t0kens, pretest"
    kept = innocent.replace(" a ", f" {REDACTED} ") if token == "a" else innocent
    assert clean(innocent, token) == kept
    assert clean(f'the token "{token}" is wrong', token) == f'the token "{REDACTED}" is wrong'


def test_seven_characters_in_a_row_are_left() -> None:
    assert clean(f"{TOKEN[:7]} {TOKEN[10:17]}!", TOKEN) == f"{TOKEN[:7]} {TOKEN[10:17]}!"


@pytest.mark.parametrize("secret", ["pass phrase with spaces", "schlüssel-äöü-größe", 'pa\\\\ss"or'])
@pytest.mark.parametrize("write", [str, quote, lambda text: quote(text).replace("%20", "+"), json.dumps, str.upper])
def test_a_client_secret_may_be_any_text(secret: str, write: object) -> None:
    assert callable(write)
    assert clean(f"<{write(secret)}>", secret).strip('"<>') == REDACTED


@given(st.text(), st.text(min_size=1, max_size=20), st.text())
@example("", "000000\\\\", "")
@example("%4", "10000000", "")
@example("", "a%41b&amp;c", "")
def test_any_text_is_one_short_line_without_the_secret(before: str, secret: str, after: str) -> None:
    shown = clean(before + secret + after, secret)
    assert len(shown) <= MAX_TEXT_LENGTH
    assert shown.isprintable()
    if len(secret) >= 8 and secret.isascii() and secret.isprintable() and " " not in secret:
        assert secret not in shown.replace(REDACTED, "")


def test_a_fragment_at_the_cut_is_redacted() -> None:
    text = "x" * (MAX_TEXT_LENGTH - 12) + TOKEN
    assert clean(text, TOKEN) == "x" * (MAX_TEXT_LENGTH - 12) + REDACTED
