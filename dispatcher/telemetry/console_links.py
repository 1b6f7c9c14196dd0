"""Addresses of pages of the console, relative to its root: for its own links, and for those in the log."""

from urllib.parse import urlencode

from dispatcher.outbox.events import INSTALLATION_ID


def explain_link(id_: str, installation_id: str | None = None) -> str:
    """Returns the address of the history of a resource, which belongs to that installation, or of an installation."""
    return f"explain?{urlencode({'id': id_} | ({'installation': installation_id} if installation_id else {}))}"


def installation_link(id_: str) -> str:
    """Returns the address of an installation's page; of its history if no installation can have such an id."""
    return f"installations/{id_}" if INSTALLATION_ID.fullmatch(id_) else explain_link(id_)


def dead_letters_link(reason: str) -> str:
    """Returns the address of the dead letters with this reason."""
    return f"dead-letters?{urlencode({'reason': reason})}"
