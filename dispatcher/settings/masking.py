"""Settings as a person may see them: without passwords, without the literals of a query. What cannot be read surely is hidden whole."""

import re

MASK = "***"
_NUMBER_OR_TEXT = r"""
    '[^'\\]*' | "[^"\\]*" | `[^`\\]*`  # text or a quoted name: databases differ in which is which
    | \b\d[\w.]*                       # a number, 0x… included
"""
_LITERAL = re.compile(_NUMBER_OR_TEXT, re.VERBOSE)
# Behind one of these, where text begins and ends depends on the database: a backslash, a comment, dollar quotes, an open quote.
_DOUBTFUL = re.compile(r"""['"`\\$\#] | -- | /\*""", re.VERBOSE)


def mask_database_url(text: str) -> str:
    """The URL without its password and without the values of its query."""
    from sqlalchemy import make_url  # settings are also read where no database is needed
    from sqlalchemy.exc import ArgumentError

    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        return MASK
    address, question, query = text.partition("?")
    if "@" in text and not text.startswith("sqlite:///"):
        if url.username is None or text.count("@") > 1:
            return MASK  # the @ may belong to a password
        address = url.set(query={}).render_as_string(hide_password=True)
        _, question, query = text.rpartition("@")[2].partition("?")
    return address + question + _mask_pairs(query)


def mask_token_url(url: str) -> str:
    """The URL without the values of its query."""
    address, question, query = url.partition("?")
    return address + question + _mask_pairs(query)


def mask_query(sql: str) -> str:
    """SQL without its literals; from where they cannot be told apart surely, without the rest."""
    kept: list[str] = []
    end = 0
    for literal in _LITERAL.finditer(sql):
        if _DOUBTFUL.search(sql, end, literal.start()):
            break
        mark = literal[0][0] if literal[0][0] in "'\"`" else ""
        kept += [sql[end : literal.start()], mark, MASK, mark]
        end = literal.end()
    rest = sql[end:]
    doubtful = _DOUBTFUL.search(rest)
    return "".join([*kept, f"{rest[: doubtful.start()]}{MASK}" if doubtful else rest])


def _mask_pairs(query: str) -> str:
    """`a=1&b=2` → `a=***&b=***`: a parameter may be a key or a password, whatever it is called."""
    shown: list[str] = []
    is_password = False  # an & may belong to it
    for name, equals, _ in (pair.partition("=") for pair in query.split("&") if query):
        shown.append(f"{name}={MASK}" if equals and not is_password else MASK)
        is_password = is_password or "pass" in name.lower()
    return "&".join(shown)
