"""A worker process of a `run` with several: it delivers like any other dispatcher, and answers its parent on a socket that it inherits."""

import asyncio
import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from http.client import HTTPConnection, HTTPException

import structlog

from dispatcher.service import WORKER_PROCESS_OPTION
from dispatcher.service.health import LIVE_SECONDS
from dispatcher.service.http_server import listen

ANSWER_SECONDS = 2.0
"""How long the parent waits for a process's answer. A probe of Kubernetes waits for 5 s here, one of ECS for 6 s."""
REPLACE_SECONDS = 1.0
"""The pause before a process that died is replaced."""
READY_POLL_SECONDS = 0.2


class WorkerProcess:
    """Runs a worker process, and replaces it when it dies; then `on_end` is called with its number.

    The pipe at its stdin ends with the parent.
    """

    def __init__(self, number: int, on_end: Callable[[int], None]) -> None:
        self.number = number
        self._on_end = on_end
        self._listening = listen("127.0.0.1", 0)
        self._process: asyncio.subprocess.Process | None = None
        self._started_at = time.monotonic()
        self._was_ready = False

    async def run(self, stop: asyncio.Event) -> int:
        """Keeps a process running until `stop` is set. Returns the exit code of the last one.

        One that was never ready is not replaced: the settings or the database are to blame, and its log says how.
        """
        logger = structlog.get_logger("dispatcher")
        while True:
            code = await self._run_once(stop)
            if stop.is_set() or not self._was_ready:
                return code
            logger.error("worker process died", process=self.number, exit_code=code)
            self._on_end(self.number)
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), REPLACE_SECONDS)
            if stop.is_set():
                return os.EX_OK

    async def _run_once(self, stop: asyncio.Event) -> int:
        descriptor = self._listening.fileno()
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "dispatcher", "run", WORKER_PROCESS_OPTION, str(descriptor)),
            stdin=asyncio.subprocess.PIPE,
            pass_fds=[descriptor],
            start_new_session=True,  # so that Ctrl-C reaches only the parent, which passes it on
        )
        self._started_at = time.monotonic()
        if stop.is_set():
            self.stop()
        watch = asyncio.create_task(self._note_readiness())
        code = await self._process.wait()
        watch.cancel()
        return code if code >= 0 else 128 - code

    async def _note_readiness(self) -> None:
        while not self._was_ready:
            await self.ask("/readyz")
            await asyncio.sleep(READY_POLL_SECONDS)

    def stop(self) -> None:
        """Makes the process stop in order, if it runs.

        Not by a signal: it may get the same one from elsewhere, such as from systemd, and would take it for the second.
        """
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()

    def send(self, number: int) -> None:
        """Sends a signal to the process, if it runs."""
        if self._process is not None and self._process.returncode is None:
            with suppress(ProcessLookupError):
                # Not by Process.send_signal(), which polls first: that would take the exit code away from wait().
                os.kill(self._process.pid, number)

    @property
    def is_starting(self) -> bool:
        """Whether it was started so lately that it need not answer yet."""
        return time.monotonic() - self._started_at < LIVE_SECONDS

    async def ask(self, path: str) -> tuple[int, str] | None:
        """Returns the status and body of its answer; None if it gives none."""
        answer = await asyncio.to_thread(self._get, path)
        if path == "/readyz" and answer is not None and answer[0] == 200:
            self._was_ready = True  # before anybody else knows: whoever has seen it ready may end it at once
        return answer

    def _get(self, path: str) -> tuple[int, str] | None:
        host, port = self._listening.getsockname()[:2]
        connection = HTTPConnection(host, port, timeout=ANSWER_SECONDS)
        try:
            connection.request("GET", path, headers={"connection": "close"})
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        except (OSError, HTTPException):
            return None
        finally:
            connection.close()

    def close(self) -> None:
        """Closes the socket, after `run` has ended."""
        self._listening.close()


def stop_with_parent(stop: Callable[[], None]) -> None:
    """Calls `stop` in a worker process when its parent wants that, or is gone."""
    loop = asyncio.get_running_loop()

    def on_end_of_stdin() -> None:
        loop.remove_reader(sys.stdin)
        stop()

    loop.add_reader(sys.stdin, on_end_of_stdin)
