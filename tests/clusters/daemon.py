"""A server program as a process of the test: started, frozen, thawed and killed by its pid."""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psutil

DEADLINE_SECONDS = 90.0
SBIN = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"])


def program(name: str) -> str:
    """Returns the path of a program. Raises LookupError with the Debian package's command if it is not installed."""
    if (found := shutil.which(name, path=SBIN)) is None:
        raise LookupError(
            f"{name} is not installed: apt-get install galera-4 mariadb-server postgresql patroni etcd-server haproxy faketime rsync"
        )
    return found


def wait_until(condition: Callable[[], object], what: str, seconds: float = DEADLINE_SECONDS) -> None:
    """Returns once the condition holds. Raises TimeoutError that names what was waited for."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds:.0f} s: {what}")
        time.sleep(0.05)


class Daemon:
    """One server program. It can be started again after it has ended, with the same command or another."""

    def __init__(self, name: str, directory: Path, user: str | None = None) -> None:
        self.name = name
        self.log = directory / f"{name}.log"
        self._user = user if os.geteuid() == 0 else None
        self._running: subprocess.Popen[bytes] | None = None

    def start(self, command: Sequence[str | Path], environment: Mapping[str, str] | None = None) -> None:
        """Starts the command; its output goes to the end of the log."""
        assert not self.is_running, f"{self.name} runs already"
        with self.log.open("ab") as log:
            self._running = subprocess.Popen(
                [str(word) for word in command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **(environment or {})},
                user=self._user,
                group=self._user,
                extra_groups=[] if self._user else None,
                start_new_session=True,
                cwd="/",
            )

    @property
    def is_running(self) -> bool:
        return self._running is not None and self._running.poll() is None

    @property
    def pid(self) -> int:
        assert self._running is not None
        return self._running.pid

    @property
    def code(self) -> int | None:
        """Its exit code, once it has ended."""
        return self._running.poll() if self._running is not None else None

    def freeze(self) -> None:
        """Stops all its processes where they are."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Ends a `freeze`."""
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """Kills all its processes at once, as when the machine loses power, and waits until none is left."""
        processes = self._signal(signal.SIGKILL)
        self.wait()
        # `psutil.wait_procs` may raise FileNotFoundError for one that is ending.
        wait_until(lambda: not any(_exists(one) for one in processes), f"all processes of {self.name} have ended")

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        """Asks it to end, and waits until it has."""
        if self.is_running:
            os.kill(self.pid, how)
            self.wait()

    def wait(self) -> None:
        if self._running is not None:
            self._running.wait(DEADLINE_SECONDS)

    def _signal(self, number: signal.Signals) -> list[psutil.Process]:
        """Signals all its processes, which it returns; its own is stopped first, so that it starts no new one meanwhile."""
        if not self.is_running:
            return []  # its pid may be another's by now
        processes = []
        with contextlib.suppress(psutil.NoSuchProcess):
            mother = psutil.Process(self.pid)
            if number is not signal.SIGCONT:
                mother.suspend()
            processes = [mother, *mother.children(recursive=True)]
            for process in processes:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.send_signal(number)
        return processes


def _exists(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    return False
