"""What a process that holds tokens sets for itself before it begins."""

import sys
from contextlib import suppress

_PR_SET_DUMPABLE = 4


def prepare_process() -> None:
    """As many descriptors as the system grants, and no core dump, which would hold every token."""
    raise_descriptor_limit()
    _forbid_core_dumps()


def raise_descriptor_limit() -> None:
    """From the soft limit to the hard one: the soft one is often 1,024, and of use only to programs that call select()."""
    if sys.platform == "win32":
        return
    import resource

    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with suppress(ValueError, OSError):  # macOS names a hard limit that it does not grant
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _forbid_core_dumps() -> None:
    if sys.platform == "win32":
        return
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        import ctypes

        # Where core dumps go to a program, such as systemd-coredump, the limit does not count.
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
