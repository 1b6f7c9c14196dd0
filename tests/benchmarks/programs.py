"""Programs that are measured, each in a process of its own, and what they used of the machine."""

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
    """Seconds of processor time and megabytes of memory at the most."""

    processor: float
    memory: float


def run(command: Sequence[str], environment: Mapping[str, str] | None = None, directory: Path | None = None) -> Used:
    """Runs it to its end. Raises AssertionError with what it said if that is not a good one."""
    with tempfile.TemporaryFile() as said:
        running = subprocess.Popen(
            command, env={**os.environ, **(environment or {})}, cwd=directory, stdout=said, stderr=said
        )
        _, status, usage = os.wait4(running.pid, 0)
        running.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        assert running.returncode == 0, f"{command}: {said.read()[-2000:].decode(errors='replace')}"
    return Used(usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


@contextmanager
def running(
    command: Sequence[str], environment: Mapping[str, str] | None = None, directory: Path | None = None
) -> Iterator["Running"]:
    """Runs it for the length of the block, then ends it with SIGTERM."""
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            command, env={**os.environ, **(environment or {})}, cwd=directory, stdout=said, stderr=said
        )
        try:
            yield Running(process.pid)
            if process.poll() is not None:
                said.seek(0)
                raise RuntimeError(f"{command} ended: {said.read()[-2000:].decode(errors='replace')}")
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@dataclass(frozen=True, slots=True)
class Running:
    """A program that is running."""

    pid: int

    def processor_share(self, seconds: float) -> float:
        """Of one core, in these seconds."""
        before = self.processor()
        time.sleep(seconds)
        return (self.processor() - before) / seconds

    def memory(self) -> float:
        """Resident megabytes."""
        return self._status("VmRSS")

    def peak_memory(self) -> float:
        """Resident megabytes at the most so far."""
        return self._status("VmHWM")

    def _status(self, name: str) -> float:
        status = Path(f"/proc/{self.pid}/status").read_text()
        return float(next(line for line in status.splitlines() if line.startswith(name)).split()[1]) / 1024

    def processor(self) -> float:
        """Seconds of processor time so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS


def dispatcher(command: str, *, on_one_core: bool = False) -> list[str]:
    """A command of the project's, which may use every core, or one of them only. Raises MissingProgram."""
    confined = [find("taskset", "util-linux"), "--cpu-list", "0"] if on_one_core else []
    return [*confined, str(Path(sys.executable).with_name("dispatcher")), command]


def settings(database_url: str, sink_url: str, **others: str) -> dict[str, str]:
    """The dispatcher's environment: everything by default but the rate limit, which is off."""
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
