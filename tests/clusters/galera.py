"""Three MariaDB servers as one Galera cluster, each in a network namespace of its own."""

import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pymysql

from tests.clusters.daemon import wait_until
from tests.clusters.mariadb import DATABASE, Mariadb
from tests.clusters.network import Network, own_network

NODES = (1, 2, 3)
PROVIDER = Path("/usr/lib/galera/libgalera_smm.so")
FAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1")
NEW_CLUSTER = "--wsrep-new-cluster"


class Node(Mariadb):
    """One server of the cluster."""

    def __init__(self, number: int, network: Network, directory: Path) -> None:
        super().__init__(f"g{number}", directory, network.address(number), 3306)
        self._number = number
        self._network = network

    def start(self, *options: str, clock_offset: str = "") -> None:
        """Starts the server; returns once it is synchronous with the others. `clock_offset` is faketime's, such as `+6s`."""
        faked = {"LD_PRELOAD": str(FAKETIME), "FAKETIME": clock_offset, "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
        self.daemon.start(self._command(*options), faked if clock_offset else None)
        self.wait_until_synced()

    def _command(self, *options: str) -> list[str]:
        others = ",".join(self._network.address(node) for node in NODES)
        settings = [
            "--binlog-format=ROW",
            "--default-storage-engine=InnoDB",
            "--innodb-autoinc-lock-mode=2",
            "--wsrep-on=ON",
            f"--wsrep-provider={PROVIDER}",
            f"--wsrep-cluster-address=gcomm://{others}",
            "--wsrep-cluster-name=dispatcher",
            f"--wsrep-node-address={self.host}",
            f"--wsrep-node-name={self.name}",
            "--wsrep-sst-method=rsync",
            "--wsrep-slave-threads=2",
            "--wsrep-provider-options=gcache.size=64M",
        ]
        return self._network.command(self._number, *super()._command(*settings, *options))

    def wait_until_synced(self) -> None:
        """Returns once the node belongs to the majority and has all its transactions."""

        def is_synced() -> bool:
            assert self.daemon.is_running, self.daemon.log.read_text()[-4000:]
            with suppress(pymysql.Error, OSError):
                rows = self.ask("SHOW STATUS WHERE variable_name IN ('wsrep_local_state_comment', 'wsrep_ready')")
                return {value for _, value in rows} == {"ON", "Synced"}
            return False

        wait_until(is_synced, f"{self.name} is synced")

    def recovered_position(self) -> int:
        """Returns the last transaction in the files of a server that was killed."""
        done = subprocess.run(self._command("--wsrep-recover"), capture_output=True, text=True, timeout=60, check=False)
        positions = re.findall(r"Recovered position:? [0-9a-f-]+:(-?\d+)", done.stderr)
        assert positions, done.stderr[-4000:]
        return int(positions[-1])

    def allow_bootstrap(self) -> None:
        """Notes that the cluster may start from this node, as an administrator does after all have died."""
        state = self._directory / "data" / "grastate.dat"
        state.write_text(state.read_text().replace("safe_to_bootstrap: 0", "safe_to_bootstrap: 1"))


class Galera:
    """The cluster: three nodes, started and empty."""

    def __init__(self, network: Network, directory: Path) -> None:
        self.network = network
        self.nodes = [Node(number, network, directory) for number in NODES]

    def start(self) -> None:
        """Starts a new cluster and creates the partner's database and user."""
        first, *others = self.nodes
        for node in self.nodes:
            node.install()
        first.start(NEW_CLUSTER)
        first.create_partner()
        for node in others:
            node.start()

    def clear(self) -> None:
        """Empties the partner's database."""
        self.nodes[0].ask(f"DROP DATABASE {DATABASE}")
        self.nodes[0].ask(f"CREATE DATABASE {DATABASE}")

    def bootstrap(self) -> None:
        """Starts the cluster again after all nodes were killed, from the one that had got furthest."""
        first = max(self.nodes, key=Node.recovered_position)
        first.allow_bootstrap()
        first.start(NEW_CLUSTER)
        for node in self.nodes:
            if node is not first:
                node.start()

    def wait_until_whole(self) -> None:
        """Returns once every node knows all others. One that was frozen takes itself for synced until it hears from them."""
        size = "SHOW STATUS LIKE 'wsrep_cluster_size'"

        def is_whole() -> bool:
            with suppress(pymysql.Error, OSError):
                return all(node.ask(size) == [("wsrep_cluster_size", str(len(NODES)))] for node in self.nodes)
            return False

        wait_until(is_whole, "the cluster is whole")
        for node in self.nodes:
            node.wait_until_synced()

    def recover(self) -> None:
        """Ends what a failed test has left behind: nodes that are killed, frozen, cut off, or read-only."""
        for number, node in zip(NODES, self.nodes, strict=True):
            self.network.heal(number)
            node.daemon.thaw()
        dead = [node for node in self.nodes if not node.daemon.is_running]
        if len(dead) == len(self.nodes):
            self.bootstrap()
        else:
            for node in dead:
                node.start()
        self.wait_until_whole()
        for node in self.nodes:
            node.ask("SET GLOBAL read_only = 0")

    def end(self) -> None:
        for node in self.nodes:
            if node.daemon.is_running:
                node.daemon.kill()


@contextmanager
def own_galera() -> Iterator[Galera]:
    """Yields a running cluster of three; it is killed and removed at the end."""
    with own_network(len(NODES)) as network, tempfile.TemporaryDirectory(prefix="dispatcher-galera-") as name:
        Path(name).chmod(0o755)
        cluster = Galera(network, Path(name))
        try:
            cluster.start()
            yield cluster
        finally:
            cluster.end()
