"""Who changes something by hand, and why: recorded in the rows that have a column for it, and in one line of the log."""

import getpass
import os
import socket
from typing import Annotated

import typer

from dispatcher.cli.exits import CommandFailed, Exit
from dispatcher.settings.settings import Settings
from dispatcher.store.dead_letters import Signature

MAX_NAME_LENGTH = 255
MAX_NOTE_LENGTH = 2_000

By = Annotated[
    str | None, typer.Option("--by", metavar="NAME", help="Your name, kept and logged.  [default: user@host]")
]
Note = Annotated[str | None, typer.Option("--note", metavar="TEXT", help="Why you do this, kept and logged.")]


def sign(by: str | None, note: str | None) -> Signature:
    """The signature from the two options. Raises CommandFailed if one is too long for its column."""
    for option, text, max_length in (("--by", by, MAX_NAME_LENGTH), ("--note", note, MAX_NOTE_LENGTH)):
        if text is not None and len(text) > max_length:
            raise CommandFailed(f"{option} is longer than {max_length:,} characters: shorten it", Exit.USAGE)
    return Signature(by or _operator(), note)


def log(settings: Settings, event: str, signature: Signature, **fields: object) -> None:
    """Writes who has done what, and why, as one line to the log, which goes to stderr."""
    import structlog

    from dispatcher.telemetry import configure_logging

    configure_logging(settings.log_format, settings.log_level)
    why = {} if signature.note is None else {"note": signature.note}
    structlog.get_logger("dispatcher").info(event, **fields, by=signature.by, **why)


def _operator() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # the user of a container may have no name
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"[:MAX_NAME_LENGTH]
