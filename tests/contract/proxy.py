"""A TCP proxy before a database server, which can fall silent: what comes in is swallowed, and no connection ends."""

import contextlib
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import URL

BYTES_AT_ONCE = 65_536


class Proxy:
    """Listens on a port of its own. `silent` holds for the connections that are open when it is set."""

    def __init__(self, target: tuple[str, int] | str) -> None:
        self._target = target
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._silenced: set[socket.socket] = set()
        self._last_word: bytes | None = None
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def port(self) -> int:
        return int(self._listening.getsockname()[1])

    @property
    def is_silent(self) -> bool:
        """Whether it has fallen silent on any connection."""
        return bool(self._silenced)

    def fall_silent(self) -> None:
        """From now on nothing passes on the connections that are open now."""
        self._silenced.update(one for pair in self._pairs for one in pair)

    def fall_silent_at(self, word: bytes) -> None:
        """The same as soon as these bytes come by, which is as far as they get."""
        self._last_word = word

    def lead_to(self, target: tuple[str, int]) -> None:
        """New connections lead there; those that are open end, as when a primary has died."""
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
                    threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while received := source.recv(BYTES_AT_ONCE):
                if self._last_word is not None and self._last_word in received:
                    self.fall_silent()
                if source not in self._silenced:
                    sink.sendall(received)
            if source not in self._silenced:
                sink.shutdown(socket.SHUT_WR)


@contextmanager
def proxy_before(url: URL) -> Iterator[tuple[Proxy, URL]]:
    """The proxy, and the URL of the same database behind it."""
    directory = url.query.get("host")
    if isinstance(directory, str):  # of a PostgreSQL that listens on a socket only
        target: tuple[str, int] | str = f"{directory}/.s.PGSQL.{url.port or 5432}"
    else:
        target = url.host or "127.0.0.1", url.port or {"postgresql": 5432, "mysql": 3306}[url.get_backend_name()]
    proxy = Proxy(target)
    yield proxy, url.set(host="127.0.0.1", port=proxy.port).difference_update_query(["host"])
    proxy.close()
