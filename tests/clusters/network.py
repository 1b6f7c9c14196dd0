"""A network of its own for each node of a cluster: a namespace with one interface on a bridge, which a test can cut."""

import contextlib
import secrets
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from tests.clusters.daemon import program


class Network:
    """A bridge between namespaces. Needs root. The machine itself has the address `host`."""

    def __init__(self, nodes: int) -> None:
        self._mark = secrets.token_hex(2)
        self._subnet = f"10.{200 + secrets.randbelow(50)}.{secrets.randbelow(250)}"
        self._bridge = f"db{self._mark}"
        self.host = f"{self._subnet}.254"
        self._nodes = range(1, nodes + 1)

    def address(self, node: int) -> str:
        return f"{self._subnet}.{node}"

    def command(self, node: int, *command: str) -> list[str]:
        """Returns a command that runs the given one on the node's network; it keeps its pid."""
        return [program("ip"), "netns", "exec", self._namespace(node), *command]

    def cut(self, node: int) -> None:
        """Takes the node off the network; no connection is closed."""
        _ip("link", "set", self._cable(node), "down")

    def heal(self, node: int) -> None:
        """Ends a `cut`."""
        _ip("link", "set", self._cable(node), "up")

    def open(self) -> None:
        _ip("link", "add", self._bridge, "type", "bridge")
        _ip("addr", "add", f"{self.host}/24", "dev", self._bridge)
        _ip("link", "set", self._bridge, "up")
        for node in self._nodes:
            name, inside = self._namespace(node), f"in{self._mark}{node}"
            _ip("netns", "add", name)
            _ip("link", "add", self._cable(node), "type", "veth", "peer", "name", inside)
            _ip("link", "set", self._cable(node), "master", self._bridge, "up")
            _ip("link", "set", inside, "netns", name)
            for arguments in (
                ["addr", "add", f"{self.address(node)}/24", "dev", inside],
                ["link", "set", inside, "up"],
                ["link", "set", "lo", "up"],
            ):
                _ip("-n", name, *arguments)

    def close(self) -> None:
        for node in self._nodes:
            with contextlib.suppress(subprocess.CalledProcessError):
                _ip("netns", "delete", self._namespace(node))
        with contextlib.suppress(subprocess.CalledProcessError):
            _ip("link", "delete", self._bridge)

    def _namespace(self, node: int) -> str:
        return f"dispatcher-{self._mark}-{node}"

    def _cable(self, node: int) -> str:
        return f"db{self._mark}{node}"


@contextmanager
def own_network(nodes: int) -> Iterator[Network]:
    """Yields a network of its own, removed at the end."""
    network = Network(nodes)
    try:
        network.open()
        yield network
    finally:
        network.close()


def _ip(*arguments: str) -> None:
    subprocess.run([program("ip"), *arguments], check=True, capture_output=True)
