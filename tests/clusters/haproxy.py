"""HAProxy in front of the servers of a cluster."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.clusters.daemon import Daemon, program, wait_until
from tests.contract.servers import _free_port

SETTINGS = """
global
    maxconn 500

defaults
    mode tcp
    timeout connect 2s
    timeout client 10m
    timeout server 10m
    timeout check 2s

listen database
    bind 127.0.0.1:{port}
    balance {balance}
    {check}
    default-server inter 500ms fall 2 rise 2 on-marked-down shutdown-sessions
"""


@contextmanager
def own_haproxy(servers: Sequence[str], check: str, balance: str = "roundrobin") -> Iterator[int]:
    """Yields the port of a proxy that leads to those servers that pass the check.

    Args:
        servers: The lines of the servers: name, address and options.
        check: How it looks whether a server is well, an `option …` line.
        balance: How it chooses among them.
    """
    port = _free_port()
    with tempfile.TemporaryDirectory(prefix="dispatcher-haproxy-") as name:
        directory = Path(name)
        lines = [
            SETTINGS.format(port=port, balance=balance, check=check),
            *(f"    server {server} check" for server in servers),
            "",
        ]
        (directory / "haproxy.cfg").write_text("\n".join(lines))
        proxy = Daemon("haproxy", directory)
        proxy.start([program("haproxy"), "-db", "-f", directory / "haproxy.cfg"])
        try:
            wait_until(lambda: proxy.is_running and _listens(port), "haproxy listens")
            yield port
        finally:
            proxy.kill()


def _listens(port: int) -> bool:
    import socket

    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
