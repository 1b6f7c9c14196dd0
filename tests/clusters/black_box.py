"""A run of one scenario, seen from outside: a partner, a receiver, and dispatchers between them."""

import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from tests.clusters.daemon import wait_until
from tests.clusters.figures import (
    Disturbance,
    Figures,
    find_lost,
    find_repeated,
    find_stranded,
    find_unexplained,
    longest_gap,
)
from tests.clusters.fleet import ROOT, Fleet
from tests.clusters.partner import Load, Partner
from tests.clusters.receiver import Receiver
from tests.clusters.session import DriverError, Session
from tests.clusters.watch import Watch, watching

AFTERWARDS_SECONDS = 60.0
"""What is not delivered this long after the last commit, with everything well again, counts as lost."""
LAST_FAILURES, LAST_ROWS, LAST_CHARACTERS = 10, 50, 20_000
"""How much a failed run shows."""


class BlackBox:
    """One run. Tests disturb the cluster while it plays, and note when."""

    def __init__(
        self, scenario: str, fleet: Fleet, partner: Partner, receiver: Receiver, reader: Session, watch: Watch
    ) -> None:
        self._scenario = scenario
        self.fleet = fleet
        self._partner = partner
        self.receiver = receiver
        self._reader = reader
        self.watch = watch
        self._disturbances: list[Disturbance] = []

    def play(self, seconds: float) -> None:
        """Lets everything run for a while."""
        time.sleep(seconds)

    @contextmanager
    def disturbed(self, what: str, recovery_seconds: float = 0.0) -> Iterator[None]:
        """Notes that the cluster is disturbed within the block, and for as long after it as it may take to recover by design."""
        began = time.time()
        try:
            yield
        finally:
            self._disturbances.append(Disturbance(what, began, time.time() + recovery_seconds))

    def wait_for_progress(self) -> None:
        """Waits until a request has been accepted that arrived after this call."""
        now = time.time()
        wait_until(lambda: self.receiver.accepted and self.receiver.accepted[-1].arrived_at > now, "deliveries go on")

    def finish(self) -> Figures:
        """Stops the partner, waits until everything is delivered, and returns the figures."""
        self._partner.stop()
        self._wait_for_the_rest()
        commits, accepted = self._partner.commits, self.receiver.accepted
        kept = {int(mark) for (mark,) in self._query("SELECT mark FROM partner_history")}
        pairs = find_repeated(accepted)
        return Figures(
            scenario=self._scenario,
            acknowledged=len(commits),
            lost_by_database=sum(one.mark not in kept for one in commits),
            lost=len(find_lost(self._marks(), accepted)),
            stranded=len(find_stranded([one for one in commits if one.mark in kept], accepted, self._disturbances)),
            accepted=len(accepted),
            repeated=len(pairs),
            unexplained=len(find_unexplained(pairs, self._disturbances)),
            longest_gap_seconds=longest_gap(accepted),
        )

    def evidence(self) -> str:
        """Returns what it takes to explain a failure: the tables and the logs are about to be deleted."""
        commits, accepted = self._partner.commits, self.receiver.accepted
        marks = self._rows("SELECT resource, mark FROM partner_resource")
        findings: dict[str, Sequence[object]] = {
            "lost": find_lost(marks, accepted),
            "disturbed": self._disturbances,
            "installations seen stranded": sorted(self.watch.stranded),
            "stranded": find_stranded(commits, accepted, self._disturbances),
            "unexplained": find_unexplained(find_repeated(accepted), self._disturbances),
            "the partner's last failures": self._partner.failures[-LAST_FAILURES:],
            "exit codes of dispatchers": self.fleet.exit_codes,
        }
        for table in ("vercel_outbox", "vercel_delivery", "vercel_installation", "vercel_dead_letter"):
            findings[table] = self._rows(f"SELECT * FROM {table} LIMIT {LAST_ROWS}")
        lines = [f"{name}: {one}" for name, ones in findings.items() for one in ones]
        for dispatcher in self.fleet.dispatchers:
            lines += [f"log of {dispatcher.name}:", dispatcher.log.read_text()[-LAST_CHARACTERS:]]
        return "\n".join(["", *lines, ""])

    def _rows(self, statement: str) -> list[Any]:
        """Returns the rows, or none if the database does not answer."""
        with suppress(*DriverError), self._reader.transaction() as cursor:
            cursor.execute(statement)
            return list(cursor.fetchall())
        return []

    def _wait_for_the_rest(self) -> None:
        deadline = time.monotonic() + AFTERWARDS_SECONDS
        while time.monotonic() < deadline and (find_lost(self._marks(), self.receiver.accepted) or self.waiting()):
            time.sleep(0.2)

    def count_later_than(self, seconds: float) -> int:
        """Returns how many commits waited longer than this for a request after them, not counting the time of disturbances."""
        return len(find_stranded(self._partner.commits, self.receiver.accepted, self._disturbances, seconds))

    def waiting(self) -> int:
        """Returns the number of events and deliveries of which the dispatchers are not rid, of which there should be none."""
        return int(
            self._query("SELECT (SELECT count(*) FROM vercel_outbox) + (SELECT count(*) FROM vercel_delivery)")[0][0]
        )

    def dead_letters(self) -> int:
        """Returns the number of dead letters, of which there should be none."""
        return int(self._query("SELECT count(*) FROM vercel_dead_letter")[0][0])

    def _marks(self) -> list[tuple[str, int]]:
        return [
            (str(resource), int(mark)) for resource, mark in self._query("SELECT resource, mark FROM partner_resource")
        ]

    def _query(self, statement: str) -> list[tuple[Any, ...]]:
        rows: list[tuple[Any, ...]] = []

        def has_answered() -> bool:
            try:
                with self._reader.transaction() as cursor:
                    cursor.execute(statement)
                    rows.extend(cursor.fetchall())
            except DriverError:
                return False
            return True

        wait_until(has_answered, "the database answers")
        return rows


@contextmanager
def black_box(
    scenario: str,
    writers: Sequence[str],
    readers: Sequence[Session],
    dispatchers: Sequence[str],
    load: Load | None = None,
    settings: Mapping[str, str] | None = None,
    fault_share: float = 0.0,
    release: Path = ROOT,
) -> Iterator[BlackBox]:
    """Yields a run in which everything has started. The tables must be those of an empty database.

    Args:
        scenario: Its name in the table.
        writers: The URLs of the partner's writers.
        readers: From which the receiver reads, the first that answers.
        dispatchers: The URLs of the dispatchers.
        load: How much the partner writes.
        settings: More settings of the dispatchers.
        fault_share: Which share of the requests is answered badly, from 0 to 1.
        release: The directory of the program that the dispatchers run.
    """
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dispatcher-fleet-")))
        receiver = stack.enter_context(closing(Receiver(readers, fault_share)))
        fleet = Fleet(dispatchers, {**(settings or {}), "DISPATCHER_VERCEL_BASE_URL": receiver.url}, directory, release)
        stack.callback(fleet.stop)
        partner = Partner(writers, load or Load())
        stack.callback(partner.stop)
        fleet.run("migrate")
        partner.prepare(writers[0])
        fleet.start()
        partner.start()
        watch = stack.enter_context(watching(readers[0]))
        box = BlackBox(scenario, fleet, partner, receiver, readers[0], watch)
        try:
            yield box
        except BaseException:
            sys.stdout.write(box.evidence())
            raise
