"""Addresses of the console's pages about groups of resolutions, relative to its root."""

from urllib.parse import urlencode

from dispatcher.inspection.resolution_groups import ResolutionGroup


def letters_link(group: ResolutionGroup) -> str:
    """Returns the address of the list of the newest dead letters of the group."""
    return f"dead-letters?{urlencode({'id': ','.join(map(str, group.ids)), 'show': 'all'})}"


def aftermath_link(group: ResolutionGroup) -> str:
    """Returns the address of the page that says what became of the replays of the group."""
    minute = {"since": f"{group.minute:%Y-%m-%dT%H:%M}", "until": f"{group.end:%Y-%m-%dT%H:%M}"}
    return f"operations/aftermath?{urlencode(minute | ({'by': group.by} if group.by else {}))}"
