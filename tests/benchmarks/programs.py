"""Runs programs, each in a process of its own, and measures their use of the machine."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

PROGRAM = Path(sys.executable).with_name("dispatcher")
"""The project's."""
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Used:
    """The resources that a drain has used."""

    worker: float
    """Seconds of processor time of the worker."""
    database: float
    """Those of the database; 0 if it runs within the worker."""
    memory: float
    """Peak memory of the worker in megabytes."""


def run(command: Sequence[str], environment: Mapping[str, str] | None = None, directory: Path | None = None) -> None:
    """Runs a command to its end. Raises AssertionError with its output if it fails."""
    with tempfile.TemporaryFile() as output:
        code = subprocess.call(
            command, env={**os.environ, **(environment or {})}, cwd=directory, stdout=output, stderr=output
        )
        output.seek(0)
        assert code == 0, f"{command}: {output.read()[-2000:].decode(errors='replace')}"


@contextmanager
def running(
    command: Sequence[str], environment: Mapping[str, str] | None = None, directory: Path | None = None
) -> Iterator["Running"]:
    """Runs a command for the duration of the block, then ends it with SIGTERM."""
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            command, env={**os.environ, **(environment or {})}, cwd=directory, stdout=output, stderr=output
        )
        try:
            yield Running(process.pid)
            if process.poll() is not None:
                output.seek(0)
                raise RuntimeError(f"{command} ended: {output.read()[-2000:].decode(errors='replace')}")
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@dataclass(frozen=True, slots=True)
class Running:
    """A program with all of its processes."""

    pid: int

    def processor_share(self, seconds: float) -> float:
        """Waits for `seconds`, and returns the share of one core that the program used meanwhile."""
        before = self.processor()
        time.sleep(seconds)
        return (self.processor() - before) / seconds

    def memory(self) -> float:
        """Returns the resident memory in megabytes."""
        return sum(_status(pid, "VmRSS") for pid in family(self.pid))

    def peak_memory(self) -> float:
        """Returns the peak resident memory so far, in megabytes."""
        return sum(_status(pid, "VmHWM") for pid in family(self.pid))

    def processor(self) -> float:
        """Returns the seconds of processor time so far, those of processes that have ended included."""
        while True:
            with suppress(FileNotFoundError):  # one has just ended: from now on its parent's figures include its own
                return sum(sum(map(int, _stat(pid)[11:15])) for pid in family(self.pid)) / _TICKS


def family(pid: int) -> list[int]:
    """Returns the process and its descendants."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(one for child in children for one in family(int(child)))]


def _stat(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def _status(pid: int, name: str) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return float(next(line for line in status.splitlines() if line.startswith(name)).split()[1]) / 1024


def dispatcher(command: str) -> list[str]:
    """Returns a command line of the project."""
    return [str(PROGRAM), command]


def settings(database_url: str, sink_url: str, **others: str) -> dict[str, str]:
    """Returns the dispatcher's environment: default settings but for `others`."""
    values = {
        "DATABASE_URL": database_url,
        "VERCEL_BASE_URL": sink_url,
        "ALLOW_INSECURE_BASE_URL": "true",
        "VERCEL_TOKEN": "t0ken",
        "OPS_HOST": "127.0.0.1",
        "OPS_PORT": "0",
        **others,
    }
    return {f"DISPATCHER_{name}": value for name, value in values.items()}
