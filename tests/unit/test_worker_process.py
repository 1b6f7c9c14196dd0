"""The parent's view of a worker process, which a small program stands in for."""

import asyncio
import sys
from pathlib import Path

import pytest

from dispatcher.service import worker_process
from dispatcher.service.worker_process import WorkerProcess

READY_ONCE = f"""#!{sys.executable}
import socket, sys
connection, _ = socket.socket(fileno=int(sys.argv[-1])).accept()
connection.recv(1000)
connection.sendall(b"HTTP/1.1 200 OK\\r\\ncontent-length: 0\\r\\n\\r\\n")
connection.close()
sys.exit(3)
"""


async def test_one_that_anybody_has_seen_ready_is_replaced_when_it_dies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The parent itself asks only now and then, and does not replace one that was never ready."""

    async def later(_process: WorkerProcess) -> None:
        await asyncio.Event().wait()

    program = tmp_path / "program"
    program.write_text(READY_ONCE)
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    monkeypatch.setattr(WorkerProcess, "_note_readiness", later)
    monkeypatch.setattr(worker_process, "ANSWER_SECONDS", 60)
    ended, stop = asyncio.Event(), asyncio.Event()
    process = WorkerProcess(1, lambda _: ended.set())
    running = asyncio.create_task(process.run(stop))
    async with asyncio.timeout(60):
        assert await process.ask("/readyz") == (200, "")
        noticing = asyncio.create_task(ended.wait())
        await asyncio.wait([running, noticing], return_when=asyncio.FIRST_COMPLETED)
        assert not running.done()
        stop.set()
        assert await running == 0
    process.close()
