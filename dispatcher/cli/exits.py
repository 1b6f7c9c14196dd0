"""The exit codes of the commands. Scripts rely on them."""

from enum import IntEnum


class Exit(IntEnum):
    DONE = 0
    FAILED = 1
    USAGE = 2
    NOTHING_MATCHED = 3
    UNHEALTHY = 4
    LEFT_WAITING = 5
    UNREACHABLE = 75


class CommandFailed(Exception):
    """Ends the command with one line, which says what is wrong and what to do, and an exit code."""

    def __init__(self, why: str, code: Exit = Exit.FAILED) -> None:
        super().__init__(why)
        self.code = code
