"""A PostgreSQL with a synchronous or an asynchronous standby, and a single one under everything that happens to servers."""

import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.clusters.black_box import BlackBox, black_box
from tests.clusters.conftest import Judge
from tests.clusters.fleet import LEASE_SECONDS
from tests.clusters.postgresql import DATABASE, Pair
from tests.clusters.session import Session

RECOVERY_SECONDS = LEASE_SECONDS + 1.0
DISK_BYTES = 96 << 20
BOOKED = {"DISPATCHER_WAKEUP": "notify", "DISPATCHER_POLL_INTERVAL": "5s"}


@contextmanager
def playing(
    pair: Pair, scenario: str, *, fault_share: float = 0.0, settings: dict[str, str] | None = None
) -> Iterator[BlackBox]:
    """Three writers and two dispatchers, whose URL names both servers."""
    name = f"PostgreSQL: {scenario}"
    with black_box(
        name, [pair.url] * 3, [Session(pair.url)], [pair.url] * 2, settings=settings, fault_share=fault_share
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
        assert judge(box, may_lose=True).lost_by_database > 0


def test_notifications_across_a_failover(synchronous_pair: Pair, judge: Judge) -> None:
    pair = synchronous_pair
    with playing(pair, "the same with `notify` and a poll every 5 s", settings=BOOKED) as box:
        box.play(8)
        with box.disturbed("failover", RECOVERY_SECONDS):
            pair.fail_over()
            box.wait_for_progress()
        box.play(12)
        judge(box)


def test_the_primary_freezes_for_good(synchronous_pair: Pair, judge: Judge) -> None:
    pair = synchronous_pair
    with playing(pair, "primary frozen for good, standby promoted") as box:
        box.play(5)
        with box.disturbed("frozen", RECOVERY_SECONDS):
            pair.freeze_over()
            box.wait_for_progress()
        box.play(10)
        judge(box)


def test_read_only_by_mistake(synchronous_pair: Pair, judge: Judge) -> None:
    with playing(synchronous_pair, "read-only by mistake for 8 s") as box:
        box.play(5)
        with box.disturbed("read-only", RECOVERY_SECONDS):
            synchronous_pair.primary.change(default_transaction_read_only="on")
            box.play(8)
            synchronous_pair.primary.change(default_transaction_read_only="off")
        box.play(8)
        judge(box)


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
            judge(box)
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


def test_a_rolling_upgrade(synchronous_pair: Pair, judge: Judge) -> None:
    pair = synchronous_pair
    with playing(pair, "rolling upgrade of the dispatchers") as box:
        box.play(4)
        with box.disturbed("upgrade", RECOVERY_SECONDS):
            for place in range(2):
                box.fleet.replace(place)
                box.play(3)
        box.play(5)
        judge(box)
