"""A partner with a million installations and any number of dispatchers: what they do, and what came of each change."""

from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from random import Random

from dispatcher.database.dialect import Dialect
from dispatcher.database.postgresql import Postgresql
from dispatcher.policy.decision import Action
from dispatcher.settings.settings import Settings
from dispatcher.store import Answer
from tests.simulation import costs
from tests.simulation.clock import Clock, Process
from tests.simulation.dispatcher import Dispatcher
from tests.simulation.server import Server
from tests.simulation.tables import Event, Tables, Waiting
from tests.simulation.vercel import Tokens, Vercel, Weather

INSTALLATIONS = 1_000_000
HOUSEKEEPING_SECONDS = 15.0
"""`GAUGE_SECONDS` and `HEARTBEAT_SECONDS` of `service/housekeeping.py`."""


@dataclass(slots=True)
class Ledger:
    """What came of the changes."""

    committed: int = 0
    concluded: int = 0
    """Changes that Vercel knows, or that became dead letters."""
    dead: int = 0
    """Of these the dead letters' ones."""
    early: int = 0
    """Deliveries concluded by a request that began before the commit of one of their changes: there must be none."""
    changed_at: "dict[str, array[float]]" = field(default_factory=lambda: defaultdict(lambda: array("d")))
    """When the first change of each concluded delivery was committed, by the kind of its installation …"""
    delivered_at: "dict[str, array[float]]" = field(default_factory=lambda: defaultdict(lambda: array("d")))
    """… and when its request ended, in the same order."""

    def conclude(self, answer: Answer, one: Waiting) -> None:
        """Records the end of a delivery."""
        self.concluded += one.events
        if answer.decision.action is Action.BURY:
            self.dead += one.events
            return
        self.early += answer.answered_at - answer.outcome.duration < one.last_at
        kind, _, _ = answer.delivery.subject.installation_id.partition("_")
        self.changed_at[kind].append(one.first_at)
        self.delivered_at[kind].append(answer.answered_at)


class Fleet:
    """`weather`: what happens to Vercel. With `looks_tokens_up` each installation has a token of its own, in the database."""

    def __init__(
        self,
        dispatchers: int,
        weather: Weather,
        *,
        installations: int = INSTALLATIONS,
        settings: Settings,
        looks_tokens_up: bool = False,
        dialect: type[Dialect] = Postgresql,
        seed: int = 1,
    ) -> None:
        self.clock = Clock()
        self.ledger = Ledger()
        self.server = Server(self.clock)
        self.tables = Tables(self.ledger.conclude)
        self._random = Random(seed)  # noqa: S311 (a simulation must be repeatable)
        self.vercel = Vercel(self.clock, weather, self._random.random)
        self.installations = installations
        self.dispatchers: list[Dispatcher] = []
        for number in range(dispatchers):
            tokens = Tokens(self.clock, weather, settings.credentials_ttl) if looks_tokens_up else None
            one = Dispatcher(
                f"dispatcher {number}",
                self.clock,
                self.server,
                self.tables,
                self.vercel,
                tokens,
                settings,
                dialect,
                self._random.random,
            )
            self.dispatchers.append(one)
            self.clock.call(self._random.random() * settings.poll_interval, one.start)
            self.clock.call(self._random.random() * HOUSEKEEPING_SECONDS, self.clock.start, self._keep_house())

    def _keep_house(self) -> Process:
        while True:
            yield self.server.run("gauges", costs.GAUGE)
            yield self.server.run("heartbeat", costs.BEAT)
            yield self.clock.now + HOUSEKEEPING_SECONDS

    # changes ──────────────────────────────────────────────────────────────────────────────────────────────────────────

    def change(self, subjects: Iterable[tuple[str, str]]) -> None:
        """Commits a change of each of these subjects (installation, resource), in one transaction."""
        events = [Event(self.clock.now, *subject) for subject in subjects]
        self.tables.commit(events)
        self.ledger.committed += len(events)

    def change_many(self, changes: int) -> None:
        """Commits so many changes at once, of installations drawn at random."""
        numbers = (int(self._random.random() * self.installations) for _ in range(changes))
        self.change((f"one_{number}", f"{number}") for number in numbers)

    def change_some(self, per_second: float, begin: float, end: float) -> None:
        """Commits changes one by one, of installations drawn at random, at random times with this rate."""
        self.clock.call(begin, self.clock.start, self._change_some(per_second, end))

    def _change_some(self, per_second: float, end: float) -> Process:
        while self.clock.now < end:
            number = int(self._random.random() * self.installations)
            self.change([(f"one_{number}", f"{number}")])
            yield self.clock.now + self._random.expovariate(per_second)

    def run_until_drained(self, begin: float, limit: float, step: float = 1.0) -> bool:
        """Runs to `begin`, then until everything is concluded, or until `limit`. Returns whether it is."""
        self.clock.run(begin)
        while self.ledger.concluded < self.ledger.committed and self.clock.now < limit:
            self.clock.run(self.clock.now + step)
        return self.ledger.concluded == self.ledger.committed


def per_second(counts: Counter[int], begin: float, end: float) -> float:
    """Returns the mean of the counts of these seconds."""
    return sum(counts[second] for second in range(int(begin), int(end))) / max(1, int(end) - int(begin))
