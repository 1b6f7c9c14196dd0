"""A PostgreSQL with a synchronous or an asynchronous standby, and a single one under everything that happens to servers."""

import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dispatcher.outbox.tables import VERSION_TABLE
from dispatcher.service.sleeper import RECONNECT_SECONDS
from tests.clusters.black_box import BlackBox, black_box
from tests.clusters.conftest import Judge
from tests.clusters.fleet import LEASE_SECONDS, ROOT
from tests.clusters.older_release import unpack_older_release
from tests.clusters.partner import Load
from tests.clusters.postgresql import DATABASE, Pair, Server
from tests.clusters.session import Session

RECOVERY_SECONDS = LEASE_SECONDS + 1.0
DISK_BYTES = 96 << 20
POLL_SECONDS = 5
BOOKED = {"DISPATCHER_WAKEUP": "notify", "DISPATCHER_POLL_INTERVAL": f"{POLL_SECONDS}s"}
RARE = Load(pause_seconds=7)
"""Until the next commits, the polls have become rare: the time between two of them grows to a third of the time since the last event."""
NOTIFIED_SECONDS = 1.0


@contextmanager
def playing(
    pair: Pair,
    scenario: str,
    *,
    fault_share: float = 0.0,
    settings: dict[str, str] | None = None,
    load: Load | None = None,
    release: Path = ROOT,
) -> Iterator[BlackBox]:
    """Three writers and two dispatchers, whose URL names both servers; an older release may not know such URLs."""
    urls = [pair.url if release == ROOT else pair.primary.url] * 2
    name = f"PostgreSQL: {scenario}"
    with black_box(
        name,
        [pair.url] * 3,
        [Session(pair.url)],
        urls,
        load,
        settings=settings,
        fault_share=fault_share,
        release=release,
    ) as box:
        yield box


def test_synchronous_failover_twice(synchronous_pair: Pair, judge: Judge) -> None:
    pair = synchronous_pair
    with playing(
        pair, "synchronous standby promoted, twice; two dispatchers killed; 10 % faults", fault_share=0.1
    ) as box:
        for place in range(2):
            box.play(6)
            with box.disturbed("failover", RECOVERY_SECONDS):
                pair.fail_over()
                box.wait_for_progress()
                box.fleet.kill(place)
            box.play(4)
            pair.rebuild()
        box.play(5)
        judge(box)


def test_asynchronous_failover_twice(asynchronous_pair: Pair, judge: Judge) -> None:
    pair = asynchronous_pair
    with playing(pair, "asynchronous standby, cut off for 3 s, promoted, twice") as box:
        for _ in range(2):
            box.play(5)
            pair.cut_standby_off()
            box.play(3)
            with box.disturbed("failover", RECOVERY_SECONDS):
                pair.fail_over()
                box.wait_for_progress()
            box.play(4)
            pair.rebuild()
        box.play(5)
        figures = judge(box, may_lose=True)
        assert figures.unexplained == 0
        assert figures.lost_by_database > 0, figures


def test_notifications_across_a_failover(synchronous_pair: Pair, judge: Judge) -> None:
    pair = synchronous_pair
    with playing(pair, "the same with `notify`, a poll every 5 s and few commits", settings=BOOKED, load=RARE) as box:
        pair.primary.ask(box.fleet.run("schema", "--dialect", "postgresql", "--wakeup"))
        box.play(20)
        with box.disturbed("failover", POLL_SECONDS + RECONNECT_SECONDS + 1):
            pair.fail_over()
            box.wait_for_progress()
        box.play(35)
        judge(box, min_commits=15)
        assert box.count_later_than(NOTIFIED_SECONDS) == 0


def test_the_primary_freezes_for_good(synchronous_pair: Pair, judge: Judge) -> None:
    pair = synchronous_pair
    with playing(pair, "primary frozen for good, standby promoted") as box:
        box.play(5)
        with box.disturbed("frozen", RECOVERY_SECONDS):
            pair.freeze_over()
            box.wait_for_progress()
        box.play(10)
        figures = judge(box)
        assert figures.unexplained == 0
        assert figures.longest_gap_seconds > 5, figures  # it did disturb


def test_read_only_by_mistake(synchronous_pair: Pair, judge: Judge) -> None:
    with playing(synchronous_pair, "read-only by mistake for 8 s") as box:
        box.play(5)
        with box.disturbed("read-only", RECOVERY_SECONDS):
            synchronous_pair.primary.change(default_transaction_read_only="on")
            box.play(8)
            synchronous_pair.primary.change(default_transaction_read_only="off")
        box.play(8)
        figures = judge(box)
        assert figures.unexplained == 0
        assert figures.longest_gap_seconds > 5, figures  # it did disturb


def test_connections_are_terminated_and_the_server_restarts(synchronous_pair: Pair, judge: Judge) -> None:
    primary = synchronous_pair.primary
    with playing(synchronous_pair, "connections terminated four times, restart fast and immediate") as box:
        for _ in range(4):
            box.play(3)
            with box.disturbed("connections terminated", RECOVERY_SECONDS):
                primary.ask(
                    f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{DATABASE}' AND pid <> pg_backend_pid()"
                )
        for how in (signal.SIGINT, signal.SIGQUIT):
            box.play(4)
            with box.disturbed("restart", RECOVERY_SECONDS):
                primary.daemon.stop(how)
                primary.start()
        box.play(8)
        judge(box)


def test_the_disk_is_full(asynchronous_pair: Pair, judge: Judge) -> None:
    pair = asynchronous_pair
    with small_disk() as disk:
        pair.primary.ask(f"CREATE TABLESPACE small LOCATION '{disk}/tables'", database="postgres")
        pair.primary.ask(f"ALTER DATABASE {DATABASE} SET default_tablespace = small", database="postgres")
        with playing(pair, "the tables' disk full for 12 s") as box:
            box.play(5)
            with box.disturbed("disk full", RECOVERY_SECONDS):
                filler = disk / "filler"
                with filler.open("wb") as file:
                    while True:
                        try:
                            file.write(b"x" * 65_536)
                            file.flush()
                        except OSError:
                            break
                box.play(12)
                filler.unlink()
            box.play(8)
            figures = judge(box)
            assert figures.unexplained == 0
            assert figures.longest_gap_seconds > 5, figures  # it did disturb
        pair.end()


@contextmanager
def small_disk() -> Iterator[Path]:
    """Yields a directory on a disk of its own, in memory."""
    with tempfile.TemporaryDirectory(prefix="dispatcher-disk-") as name:
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES},mode=777", "tmpfs", name], check=True)
        try:
            tables = Path(name, "tables")
            subprocess.run(["install", "-d", "-o", "postgres", "-m", "700", str(tables)], check=True)
            yield Path(name)
        finally:
            subprocess.run(["umount", "--lazy", name], check=True)


def test_a_rolling_upgrade(synchronous_pair: Pair, judge: Judge, tmp_path: Path) -> None:
    unpack_older_release(tmp_path)
    primary = synchronous_pair.primary
    with playing(synchronous_pair, "rolling upgrade across a migration", release=tmp_path) as box:
        box.play(4)
        old = revision(primary)
        box.fleet.release = ROOT
        box.fleet.run("migrate")
        assert revision(primary) > old
        box.play(4)
        for place in range(2):
            box.fleet.replace(place)
            box.play(4)
        judge(box)


def revision(server: Server) -> str:
    ((number,),) = server.ask(f"SELECT version_num FROM {VERSION_TABLE}")
    return str(number)
