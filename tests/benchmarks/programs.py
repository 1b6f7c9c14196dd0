"""Runs programs, each in a process of its own, and measures their use of the machine."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.machine import find

_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Used:
    """The resources that a program has used."""

    processor: float
    """Seconds of processor time."""
    memory: float
    """Peak memory in megabytes."""


def run(command: Sequence[str], environment: Mapping[str, str] | None = None, directory: Path | None = None) -> Used:
    """Runs a command to its end. Raises AssertionError with its output if it fails."""
    with tempfile.TemporaryFile() as output:
        running = subprocess.Popen(
            command, env={**os.environ, **(environment or {})}, cwd=directory, stdout=output, stderr=output
        )
        _, status, usage = os.wait4(running.pid, 0)
        running.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        assert running.returncode == 0, f"{command}: {output.read()[-2000:].decode(errors='replace')}"
    return Used(usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


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
    pid: int

    def processor_share(self, seconds: float) -> float:
        """Waits for `seconds`, and returns the share of one core that the program used meanwhile."""
        before = self.processor()
        time.sleep(seconds)
        return (self.processor() - before) / seconds

    def memory(self) -> float:
        """Returns the resident memory in megabytes."""
        return self._status("VmRSS")

    def peak_memory(self) -> float:
        """Returns the peak resident memory so far, in megabytes."""
        return self._status("VmHWM")

    def _status(self, name: str) -> float:
        status = Path(f"/proc/{self.pid}/status").read_text()
        return float(next(line for line in status.splitlines() if line.startswith(name)).split()[1]) / 1024

    def processor(self) -> float:
        """Returns the seconds of processor time so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS


def dispatcher(command: str, *, on_one_core: bool = False) -> list[str]:
    """Returns a command line of the project, confined to one core if `on_one_core`. Raises MissingProgram."""
    confined = [find("taskset", "util-linux"), "--cpu-list", "0"] if on_one_core else []
    return [*confined, str(Path(sys.executable).with_name("dispatcher")), command]


def settings(database_url: str, sink_url: str, **others: str) -> dict[str, str]:
    """Returns the dispatcher's environment: default settings, except that the rate limit is off."""
    values = {
        "DATABASE_URL": database_url,
        "VERCEL_BASE_URL": sink_url,
        "ALLOW_INSECURE_BASE_URL": "true",
        "VERCEL_TOKEN": "t0ken",
        "RATE_LIMIT": "off",
        "OPS_HOST": "127.0.0.1",
        "OPS_PORT": "0",
        **others,
    }
    return {f"DISPATCHER_{name}": value for name, value in values.items()}
