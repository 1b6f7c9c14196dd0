"""Addresses of the console's pages about groups of resolutions, relative to its root, and the way back from a page to another."""

import re
from urllib.parse import urlencode

from dispatcher.inspection.resolution_groups import ResolutionGroup

_OWN = re.compile(r"[a-z][a-z0-9-]*(/[A-Za-z0-9_-]+)*(\?[^\s\\#]*)?")


def letters_link(group: ResolutionGroup) -> str:
    """Returns the address of the list of the newest dead letters of the group."""
    return f"dead-letters?{urlencode({'id': ','.join(map(str, group.ids)), 'show': 'all'})}"


def aftermath_link(group: ResolutionGroup) -> str:
    """Returns the address of the page that says what became of the replays of the group."""
    minute = {"since": f"{group.minute:%Y-%m-%dT%H:%M}", "until": f"{group.end:%Y-%m-%dT%H:%M}"}
    return f"operations/aftermath?{urlencode(minute | ({'by': group.by} if group.by else {}))}"


def returning(link: str, origin: str) -> str:
    """Returns the address with the page that its way back leads to."""
    link = link.removesuffix("?")
    return f"{link}{'&' if '?' in link else '?'}{urlencode({'from': origin})}"


def own_page(text: str) -> str:
    """Returns the address if it can only be a page of the console, else that of the first."""
    return text if _OWN.fullmatch(text) else ""
