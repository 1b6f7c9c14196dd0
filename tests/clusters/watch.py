"""Looks at the tables during a run: an event of the same installation would soon end what it must never see."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from tests.clusters.session import DriverError, Session

STRANDED = """
    SELECT installation_id FROM vercel_installation WHERE due_at IS NULL AND lease_token IS NULL
    AND EXISTS (SELECT 1 FROM vercel_delivery WHERE vercel_delivery.installation_id = vercel_installation.installation_id)
"""
"""Installations with deliveries that no claim looks for: no transaction may commit such a state."""
LOOK_SECONDS = 0.2


class Watch:
    """Looks again and again, in a thread of its own."""

    def __init__(self, reader: Session) -> None:
        self._reader = reader
        self._stopping = threading.Event()
        self.looks = 0
        self.stranded: set[str] = set()

    def run(self) -> None:
        while not self._stopping.wait(LOOK_SECONDS):
            with suppress(*DriverError), self._reader.transaction() as cursor:
                cursor.execute(STRANDED)
                self.stranded.update(str(installation) for (installation,) in cursor.fetchall())
                self.looks += 1

    def stop(self) -> None:
        self._stopping.set()


@contextmanager
def watching(reader: Session) -> Iterator[Watch]:
    """Yields a watch, which ends with the block."""
    watch = Watch(reader)
    thread = threading.Thread(target=watch.run)
    thread.start()
    try:
        yield watch
    finally:
        watch.stop()
        thread.join()
