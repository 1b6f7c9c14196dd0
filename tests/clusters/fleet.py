"""The dispatchers: `dispatcher run` as real processes, started again when they end, as systemd does."""

import sys
import threading
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from tests.clusters.daemon import Daemon, wait_until

ROOT = Path(__file__).parents[2]
LEASE_SECONDS = 4
SETTINGS = {
    "DISPATCHER_ALLOW_INSECURE_BASE_URL": "true",
    "DISPATCHER_VERCEL_TOKEN": "t0ken-of-the-test",
    "DISPATCHER_LEASE": f"{LEASE_SECONDS}s",
    "DISPATCHER_REQUEST_TIMEOUT": "2s",
    "DISPATCHER_RATE_LIMIT": "off",
    "DISPATCHER_BACKOFF_BASE": "50ms",
    "DISPATCHER_BACKOFF_CAP": "500ms",
    "DISPATCHER_OPS_PORT": "off",
}


class Fleet:
    """One dispatcher for each URL."""

    def __init__(self, urls: Sequence[str], settings: Mapping[str, str], directory: Path, release: Path = ROOT) -> None:
        self.release = release
        """The directory of the program that is started from now on."""
        self._environments = [{**SETTINGS, **settings, "DISPATCHER_DATABASE_URL": url} for url in urls]
        self.dispatchers = [Daemon(f"dispatcher-{place}", directory) for place in range(len(urls))]
        self.exit_codes: list[int] = []
        """Of those that ended although nobody had killed them."""
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._supervisor = threading.Thread(target=self._supervise)

    def run(self, *arguments: str, place: int = 0) -> str:
        """Runs another command to its end, on the database of this dispatcher; returns what it prints."""
        command = Daemon("-".join(arguments), self.dispatchers[place].log.parent)
        command.start(self._command(*arguments), self._environment(place))
        command.wait()
        assert command.code == 0, command.log.read_text()
        return command.log.read_text()

    def start(self) -> None:
        for place in range(len(self.dispatchers)):
            self._start(place)
        for one in self.dispatchers:
            wait_until(partial(_has_started, one), f"{one.name} has started")
        self._supervisor.start()

    def kill(self, place: int) -> None:
        """Kills a dispatcher; it is started again."""
        with self._lock:
            self.dispatchers[place].kill()
            self._start(place)

    def replace(self, place: int) -> None:
        """Stops a dispatcher in order, as for an upgrade, and starts it again."""
        with self._lock:
            self.dispatchers[place].stop()
            assert self.dispatchers[place].code == 0, self.dispatchers[place].log.read_text()[-4000:]
            self._start(place)

    def stop(self) -> None:
        self._stopping.set()
        if self._supervisor.is_alive():
            self._supervisor.join()
        for one in self.dispatchers:
            if one.is_running:
                one.kill()

    def _start(self, place: int) -> None:
        self.dispatchers[place].start(self._command("run"), self._environment(place))

    def _environment(self, place: int) -> dict[str, str]:
        return {**self._environments[place], "PYTHONPATH": str(self.release)}

    def _command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "dispatcher", *arguments]

    def _supervise(self) -> None:
        while not self._stopping.wait(0.5):
            with self._lock:
                for place, one in enumerate(self.dispatchers):
                    if not one.is_running:
                        self.exit_codes.append(one.code or 0)
                        self._start(place)


def _has_started(dispatcher: Daemon) -> bool:
    return '"event": "started"' in dispatcher.log.read_text()
