"""Patroni with a synchronous standby behind HAProxy: it chooses the primary itself."""

from tests.clusters.black_box import black_box
from tests.clusters.conftest import Judge
from tests.clusters.daemon import wait_until
from tests.clusters.fleet import LEASE_SECONDS
from tests.clusters.haproxy import own_haproxy
from tests.clusters.patroni import Patroni
from tests.clusters.postgresql import DATABASE
from tests.clusters.session import Session

RECOVERY_SECONDS = LEASE_SECONDS + 1.0


def test_switchover_and_the_death_of_a_node(patroni: Patroni, judge: Judge) -> None:
    with own_haproxy(patroni.backends, patroni.check) as port:
        url = f"postgresql://postgres@127.0.0.1:{port}/{DATABASE}"
        with black_box(
            "Patroni: switchover, then kill -9 of the primary's node; 8 % faults",
            [url] * 3,
            [Session(url)],
            [url] * 2,
            fault_share=0.08,
        ) as box:
            box.play(5)
            with box.disturbed("switchover", RECOVERY_SECONDS):
                patroni.switch_over()
                box.wait_for_progress()
            box.play(5)
            with box.disturbed("killed", RECOVERY_SECONDS):
                old = patroni.primary
                old.kill()
                wait_until(lambda: any(one.is_primary() for one in patroni.members), "the other is the primary")
                box.wait_for_progress()
            old.start()
            wait_until(patroni.is_complete, "the killed node is a synchronous standby")
            box.play(8)
            judge(box)
