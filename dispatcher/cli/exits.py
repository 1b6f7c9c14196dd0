"""How commands end: the exit codes that scripts rely on."""

from enum import IntEnum


class Exit(IntEnum):
    """The contract's exit codes."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    NOTHING_MATCHED = 3
    UNHEALTHY = 4
    LEFT_WAITING = 5
    UNREACHABLE = 75


class CommandFailed(Exception):
    """The command ends here: one line that says what is wrong and what to do, and the exit code."""

    def __init__(self, why: str, code: Exit = Exit.FAILED) -> None:
        super().__init__(why)
        self.code = code
