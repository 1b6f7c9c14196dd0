"""The limits that a process that holds tokens sets for itself at its start."""

import sys
from contextlib import suppress

_PR_SET_DUMPABLE = 4


def prepare_process() -> None:
    """Allows as many descriptors as the system grants, and no core dump, which would contain every token."""
    raise_descriptor_limit()
    _forbid_core_dumps()


def raise_descriptor_limit() -> None:
    """Raises the soft limit, often 1,024 for the sake of programs that call select(), to the hard limit."""
    if sys.platform == "win32":
        return
    import resource

    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with suppress(ValueError, OSError):  # macOS reports a hard limit that it does not grant
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _forbid_core_dumps() -> None:
    if sys.platform == "win32":
        return
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        import ctypes

        # The limit does not apply where core dumps are piped to a program such as systemd-coredump.
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
