"""A Galera cluster of three with a dispatcher and a writer on each node."""

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from tests.clusters.black_box import BlackBox, black_box
from tests.clusters.conftest import Judge
from tests.clusters.fleet import LEASE_SECONDS
from tests.clusters.galera import Galera
from tests.clusters.haproxy import own_haproxy
from tests.clusters.mariadb import DATABASE
from tests.clusters.partner import Load
from tests.clusters.session import DriverError, Session

BULK_ROWS = 30_000
SYNCHRONOUS_READS = "SET SESSION wsrep_sync_wait = 1"
RECOVERY_SECONDS = LEASE_SECONDS + 1.0
"""After the death of a dispatcher its leases run out; a node that comes back takes as long as that, too."""


def everywhere(
    galera: Galera, scenario: str, load: Load | None = None, fault_share: float = 0.0
) -> AbstractContextManager[BlackBox]:
    """A writer and a dispatcher on each node; the receiver reads what any node has committed."""
    urls = [node.url for node in galera.nodes]
    readers = [Session(url, SYNCHRONOUS_READS) for url in urls]
    return black_box(f"Galera: {scenario}", urls, readers, urls, load, fault_share=fault_share)


def test_quiet(galera: Galera, judge: Judge) -> None:
    with everywhere(galera, "quiet") as box:
        box.play(15)
        judge(box)


def test_few_busy_installations(galera: Galera, judge: Judge) -> None:
    with everywhere(galera, "three busy installations", Load(installations=3, resources=6, pause_seconds=0.02)) as box:
        box.play(25)
        judge(box)


def test_appliers_lag(galera: Galera, judge: Judge) -> None:
    with (
        everywhere(galera, "appliers lag behind bulk updates", Load(installations=60, resources=2)) as box,
        bulk_updates(galera),
    ):
        box.play(35)
        judge(box)


@contextmanager
def bulk_updates(galera: Galera) -> Iterator[None]:
    """Within the block the third node writes 30,000 rows again and again, which the others must apply."""
    stopping, session = threading.Event(), Session(galera.nodes[2].url)
    with session.transaction() as cursor:
        cursor.execute("CREATE TABLE partner_bulk (id INT PRIMARY KEY, filler CHAR(100))")
        cursor.execute(f"INSERT INTO partner_bulk SELECT seq, 'x' FROM seq_1_to_{BULK_ROWS}")

    def update() -> None:
        while not stopping.wait(0.5):
            try:
                with session.transaction() as cursor:
                    cursor.execute("UPDATE partner_bulk SET filler = concat('y', now(6))")
            except DriverError:
                pass

    writer = threading.Thread(target=update)
    writer.start()
    try:
        yield
    finally:
        stopping.set()
        writer.join()


def test_a_node_is_killed_and_rejoins(galera: Galera, judge: Judge) -> None:
    with everywhere(galera, "kill -9 of a node, rejoin; two dispatchers killed; 10 % faults", fault_share=0.1) as box:
        box.play(5)
        with box.disturbed("g2 killed", RECOVERY_SECONDS):
            galera.nodes[1].daemon.kill()
            box.wait_for_progress()
            box.fleet.kill(0)
            galera.nodes[1].start()
            box.fleet.kill(2)
        box.play(10)
        judge(box)


def test_a_node_freezes_past_suspicion(galera: Galera, judge: Judge) -> None:
    with everywhere(galera, "a node frozen for 14 s") as box:
        box.play(5)
        with box.disturbed("g3 frozen", RECOVERY_SECONDS):
            galera.nodes[2].daemon.freeze()
            box.play(14)
            galera.nodes[2].daemon.thaw()
            galera.wait_until_whole()
        box.play(10)
        judge(box)


def test_a_node_is_partitioned(galera: Galera, judge: Judge) -> None:
    with everywhere(galera, "a node partitioned for 16 s") as box:
        box.play(5)
        with box.disturbed("g3 cut off", RECOVERY_SECONDS):
            galera.network.cut(3)
            box.play(16)
            galera.network.heal(3)
            galera.wait_until_whole()
        box.play(10)
        judge(box)


def test_all_nodes_are_killed_and_bootstrapped(galera: Galera, judge: Judge) -> None:
    with everywhere(galera, "all nodes killed, bootstrapped again") as box:
        box.play(8)
        with box.disturbed("all killed", RECOVERY_SECONDS):
            for node in galera.nodes:
                node.daemon.kill()
            galera.bootstrap()
        box.play(10)
        judge(box, may_lose=True)  # the servers do not flush each commit to the disk


def test_rolling_restart(galera: Galera, judge: Judge) -> None:
    with everywhere(galera, "rolling restart of the nodes") as box:
        box.play(3)
        with box.disturbed("restarts", RECOVERY_SECONDS):
            for node in galera.nodes:
                node.daemon.stop()
                node.start()
        box.play(8)
        judge(box)


def test_clocks_differ_by_less_than_the_lease(galera: Galera, judge: Judge) -> None:
    with skewed(galera, 2) as box:
        box.play(25)
        # A request that includes an event collected by the node ahead is `early` by the clock of another: one more follows it.
        judge(box, may_repeat=0.05)


def test_clocks_differ_by_more_than_the_lease(galera: Galera, judge: Judge) -> None:
    with skewed(galera, 6) as box:
        box.play(25)
        judge(box, may_repeat=0.1)  # besides, the dispatcher there takes leases over that have not expired


@contextmanager
def skewed(galera: Galera, seconds: int) -> Iterator[BlackBox]:
    """A run with one node whose clock is ahead."""
    node = galera.nodes[2]
    node.daemon.stop()
    try:
        node.start(clock_offset=f"+{seconds}s")
        assert node.clock() - galera.nodes[0].clock() > seconds - 1
        with everywhere(galera, f"a node's clock +{seconds} s, lease {LEASE_SECONDS} s", fault_share=0.1) as box:
            yield box
    finally:
        node.daemon.stop()
        node.start()


def test_a_node_turns_read_only(galera: Galera, judge: Judge) -> None:
    with everywhere(galera, "a node read-only by mistake for 8 s") as box:
        box.play(5)
        with box.disturbed("g2 read-only", RECOVERY_SECONDS):
            galera.nodes[1].ask("SET GLOBAL read_only = 1")
            box.play(8)
            galera.nodes[1].ask("SET GLOBAL read_only = 0")
        box.play(8)
        judge(box)


def test_connections_are_terminated(galera: Galera, judge: Judge) -> None:
    with everywhere(galera, "all connections terminated, four times") as box:
        for _ in range(4):
            box.play(4)
            with box.disturbed("connections terminated", RECOVERY_SECONDS):
                for node in galera.nodes:
                    node.end_connections()
        box.play(6)
        judge(box)


def test_haproxy_before_the_nodes(galera: Galera, judge: Judge) -> None:
    servers = [f"{node.name} {node.host}:3306" for node in galera.nodes]
    with own_haproxy(servers, "option mysql-check user checker") as port:
        url = galera.nodes[0].url.replace(f"{galera.nodes[0].host}:3306/{DATABASE}", f"127.0.0.1:{port}/{DATABASE}")
        readers = [Session(node.url, SYNCHRONOUS_READS) for node in galera.nodes]
        with black_box(
            "Galera: HAProxy round robin; kill -9 of one node, another frozen; 8 % faults",
            [url] * 3,
            readers,
            [url] * 3,
            fault_share=0.08,
        ) as box:
            box.play(5)
            with box.disturbed("g2 killed", RECOVERY_SECONDS):
                galera.nodes[1].daemon.kill()
                box.play(4)
                galera.nodes[1].start()
            box.play(6)
            with box.disturbed("g3 frozen", RECOVERY_SECONDS):
                galera.nodes[2].daemon.freeze()
                box.play(12)
                galera.nodes[2].daemon.thaw()
                galera.wait_until_whole()
            box.play(8)
            judge(box)
