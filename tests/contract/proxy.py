"""A TCP proxy in front of a database server. It counts round trips, and can fall silent: it drops all data, but closes no connection."""

import contextlib
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import URL

MAX_READ_BYTES = 65_536


class Proxy:
    """Listens on a port of its own. Falling silent affects only the connections that are open at that moment."""

    def __init__(self, target: tuple[str, int] | str) -> None:
        self._target = target
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._silenced: set[socket.socket] = set()
        self._silencing_bytes: bytes | None = None
        self._asking: set[socket.socket] = set()
        self.round_trips = 0
        """How often a client has sent something after the server's last word."""
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def port(self) -> int:
        return int(self._listening.getsockname()[1])

    @property
    def is_silent(self) -> bool:
        """Whether any connection has fallen silent."""
        return bool(self._silenced)

    def fall_silent(self) -> None:
        """Lets nothing more pass on the connections that are open now."""
        self._silenced.update(one for pair in self._pairs for one in pair)

    def fall_silent_at(self, silencing: bytes) -> None:
        """Falls silent as soon as these bytes arrive; they are not passed on."""
        self._silencing_bytes = silencing

    def lead_to(self, target: tuple[str, int]) -> None:
        """Sends new connections to this target and ends the open ones, as when a primary has died."""
        self._target = target
        self._end_connections()

    def close(self) -> None:
        self._listening.close()
        self._end_connections()
        for one in (one for pair in self._pairs for one in pair):
            one.close()

    def _end_connections(self) -> None:
        for one in (one for pair in self._pairs for one in pair):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                client, _ = self._listening.accept()
                if isinstance(self._target, str):
                    server = socket.socket(socket.AF_UNIX)
                    server.connect(self._target)
                else:
                    server = socket.create_connection(self._target)
                self._pairs.append((client, server))
                for source, sink in ((client, server), (server, client)):
                    threading.Thread(target=self._pump, args=(source, sink, client), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while received := source.recv(MAX_READ_BYTES):
                self._count(client, asks=source is client)
                if self._silencing_bytes is not None and self._silencing_bytes in received:
                    self.fall_silent()
                if source not in self._silenced:
                    sink.sendall(received)
            if source not in self._silenced:
                sink.shutdown(socket.SHUT_WR)

    def _count(self, client: socket.socket, *, asks: bool) -> None:
        if not asks:
            self._asking.discard(client)
        elif client not in self._asking:
            self._asking.add(client)
            self.round_trips += 1


@contextmanager
def proxy_before(url: URL) -> Iterator[tuple[Proxy, URL]]:
    """Yields the proxy, and the URL of the same database through it."""
    directory = url.query.get("host")
    if isinstance(directory, str):  # a PostgreSQL that listens only on a socket
        target: tuple[str, int] | str = f"{directory}/.s.PGSQL.{url.port or 5432}"
    else:
        target = url.host or "127.0.0.1", url.port or {"postgresql": 5432, "mysql": 3306}[url.get_backend_name()]
    proxy = Proxy(target)
    yield proxy, url.set(host="127.0.0.1", port=proxy.port).difference_update_query(["host"])
    proxy.close()
