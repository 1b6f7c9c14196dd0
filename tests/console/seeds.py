"""Believable states of a database: `empty`, `healthy` and `troubled`. The steps of the protocol write them, oldest first, so that every row
is one that a dispatcher would leave.
"""

from collections.abc import Callable, Mapping
from datetime import timedelta
from functools import partial

import sqlalchemy as sa

from dispatcher import ResourceUpdated, store
from dispatcher.database.transactions import Database
from dispatcher.outbox.tables import dead_letter, installation
from dispatcher.policy.decision import DELIVERED, Action, DeadLetterReason, Decision, PauseReason, ThrottleReason
from dispatcher.policy.outcome import Outcome, OutcomeKind
from dispatcher.policy.rate_window import RateWindow
from dispatcher.store import installations
from dispatcher.store.dead_letters import Filter, Signature, discard, replay
from dispatcher.store.deliveries import DeliveryFilter, retry
from tests.console.steps import DISPATCHER, Reply, ago, announce, commit, send

HOSTILE = (
    "<script>document.title = 'owned'</script>",
    "\"><img src=x onerror=\"document.title = 'owned'\"> &lt;b&gt; 'single' `back`",
    "\u202eoverridden\u202c \u05e9\u05dc\u05d5\u05dd \u0645\u0631\u062d\u0628\u0627",
    "\x1b[31mred\x1b[0m \x1b]0;owned\x07 \x9b2J",
    "x" * 2_000,
)
"""Texts that a careless page would run, mirror, colour or be torn apart by; Vercel's answers may hold them."""
MAX_ERROR_LENGTH = 2_000
RESTING = Decision(Action.RETRY, delay=2_400)
"""Nothing that waits becomes due while a test runs: no dispatcher would send it."""
NOW = Decision(Action.RETRY, delay=-1)
OK = Outcome(OutcomeKind.DELIVERED, 200, duration=0.064, vercel_id="fra1::q1-1764547200000-5f1c2a9e7b3d")

Seed = Callable[[Database], None]


def empty(database: Database) -> None:
    """A dispatcher runs, and nothing has ever been published."""
    beat(database)


def healthy(database: Database) -> None:
    """An hour of requests, in the end all delivered."""
    last_hour(database, {})
    beat(database)


def troubled(database: Database) -> None:
    """13 installations, of which 3 are paused, 2 have an open breaker and 1 is throttled, and 42 unresolved dead letters of three causes.

    Nothing becomes due within half an hour. Only the heartbeat and the rate window last no longer than a minute: see `refresh`.
    """
    with ago(database, timedelta(days=9)):
        beat(database)
        give_up(database)
    with ago(database, timedelta(days=6)):
        supersede(database)
    for hours, id_, resources in ((48, "icfg_3", 12), (26, "icfg_5", 9)):
        with ago(database, timedelta(hours=hours)):
            refuse_plans(database, id_, resources)
    with ago(database, timedelta(hours=20, minutes=48)):
        stop(database, "icfg_9", 12, Outcome(OutcomeKind.UNAUTHORIZED, 401, "forbidden", "the token has been revoked"))
    with ago(database, timedelta(hours=5)):
        refuse_products(database)
    with ago(database, timedelta(hours=2)):
        stop(database, "icfg_4", 70, Outcome(OutcomeKind.NO_CREDENTIAL, error="no token is stored for icfg_4"))
    with ago(database, timedelta(minutes=70)):
        lose(database)
    last_hour(
        database,
        {
            59: replay_some,
            50: partial(refuse_plans, installation_id="icfg_6", resources=6),
            30: pause_by_hand,
            3: partial(refuse_plans, installation_id="icfg_8", resources=4),
            **dict.fromkeys((40, 39, 38, 36, 32, 24, 9), fail_answers),
            **dict.fromkeys((22, 21, 19, 15, 7), fail_to_answer),
        },
    )
    throttle(database)
    beat(database)


def beat(database: Database) -> None:
    """The heartbeat of the running dispatcher, which counts as running for a minute."""
    store.beat(database, store.Heartbeat(DISPATCHER, "0.1.0", 3, is_outage=False, is_first=False))


def refresh(database: Database) -> None:
    """Renews what lasts a minute: the heartbeat, and 41 of 60 places in the rate window of the throttled installation."""
    beat(database)
    throttled = installation.c.rate_window.is_not(None)
    window = rate_window(database)
    with database.engine.begin() as connection:
        connection.execute(sa.update(installation).where(throttled).values(rate_window=window))


def rate_window(database: Database) -> str | None:
    """Returns a window as its row stores it, with 41 requests of the last ten seconds."""
    window, now = RateWindow(60, 60.0), database.now().timestamp()
    for request in range(41):
        window.take(now)
        window.end(now - 10 + request / 4.1)
    return window.stored(now)


def last_hour(database: Database, trouble: Mapping[int, Seed]) -> None:
    """Requests in each minute of the last hour; some minutes, counted backwards, have trouble too."""
    for minute in range(60, 0, -1):
        with ago(database, timedelta(minutes=minute)):
            traffic(database, minute)
            if minute in trouble:
                trouble[minute](database)
    traffic(database, 0)


def traffic(database: Database, minute: int) -> None:
    """A few requests of several installations, some with many events. What fails is delivered at once."""
    commit(
        database,
        *(
            ResourceUpdated(installation_id=f"icfg_{(1, 5, 6)[n % 3]}", resource_id=f"db_{n}")
            for n in range(4 + 7 * minute % 9)
            for _ in range(27 if n == minute % 5 else 1 + n % 3)
        ),
    )

    def reply(one: store.Delivery) -> Reply:
        number = one.last_event_id % 29
        if number == 7:
            return Outcome(OutcomeKind.FAILED, 502, None, "Bad Gateway", 0.071), NOW
        if number == 13:
            error = Outcome(OutcomeKind.THROTTLED, 429, "rate_limited", "too many requests", 0.009, retry_after=1.0)
            return error, Decision(Action.THROTTLE, ThrottleReason.RATE_LIMITED)
        if number == 23:
            return Outcome(OutcomeKind.TIMEOUT, error="no answer within 10 s", duration=10.0), NOW
        return OK._replace(duration=(40 + one.last_event_id % 60) / 1_000), DELIVERED

    send(database, reply)
    send(database, lambda _: (OK, DELIVERED))


def give_up(database: Database) -> None:
    """Dead letters that an operator discarded."""
    errors = {"db_test_1": 'billing plan "plan_1" is unknown', "db_test_2": 'billing plan "plan_2" is unknown'}
    bury(database, "icfg_5", errors, DeadLetterReason.REJECTED, 400)
    discard(database, Filter(), newest(database), Signature("ben", f"test data {HOSTILE[0]}"), lambda _: None)


def supersede(database: Database) -> None:
    """A dead letter whose subject was delivered later."""
    bury(database, "icfg_6", {"db_0": 'billing plan "plan_2" is unknown'}, DeadLetterReason.REJECTED, 400)
    announce(database, "icfg_6", "db_0")
    send(database, lambda _: (OK, DELIVERED))


def refuse_plans(database: Database, installation_id: str, resources: int) -> None:
    """The first cause: 31 dead letters in all, of four installations; the errors of `icfg_3` are hostile."""
    tails = HOSTILE if installation_id == "icfg_3" else ["ask for the plans of the product"]
    texts = (f'billing plan "plan_{400 + n}" is unknown: {tails[n % len(tails)]}' for n in range(resources))
    errors = {f"db_plan_{n}": text[:MAX_ERROR_LENGTH] for n, text in enumerate(texts)}
    bury(database, installation_id, errors, DeadLetterReason.REJECTED, 400)


def refuse_products(database: Database) -> None:
    """The second cause: 7 of one installation."""
    errors = {f"db_product_{n}": f'unknown product "prod_{n}"' for n in range(7)}
    bury(database, "icfg_11", errors, DeadLetterReason.REJECTED, 422)


def lose(database: Database) -> None:
    """The third cause: resources that Vercel does not know, of two installations; `replay_some` replays the last three."""
    for id_, resources in (
        ("icfg_10", ["db_gone_0"]),
        ("icfg_3", ["db_gone_1", "db_gone_2"]),
        ("icfg_3", ["db_gone_3", "db_gone_4", "db_gone_5"]),
    ):
        bury(database, id_, dict.fromkeys(resources, "resource not found"), DeadLetterReason.GONE, 404)


def replay_some(database: Database) -> None:
    """One of three is delivered, one waits, and one dies again."""
    last = newest(database)
    ids = range(last - 2, last + 1)
    replay(database, Filter(ids), last, Signature("anna", "linked at Vercel"), lambda _: None)
    gone = Outcome(OutcomeKind.GONE, 404, "not_found", "resource not found", 0.088)
    replies = {
        "db_gone_3": (OK, DELIVERED),
        "db_gone_4": (gone, RESTING),
        "db_gone_5": (gone, Decision(Action.BURY, DeadLetterReason.GONE)),
    }
    send(database, lambda one: replies[str(one.subject.resource_id)])


def stop(database: Database, installation_id: str, resources: int, refusal: Outcome) -> None:
    """The installation is paused because its token is refused or missing."""
    announce(database, installation_id, "db_0")
    send(database, lambda _: (OK, DELIVERED))
    announce(database, installation_id, *(f"db_{n}" for n in range(resources)))
    pause = Decision(Action.PAUSE, PauseReason(refusal.kind.value), delay=2_400)
    send(database, lambda _: (refusal, pause), failures=7)


def pause_by_hand(database: Database) -> None:
    announce(database, "icfg_7", *(f"db_{n}" for n in range(4)))
    installations.pause(database, "icfg_7", Signature("anna", f"they move their databases {HOSTILE[1]}"))
    store.collect(database, 500)


def fail_answers(database: Database) -> None:
    """One more failure of three deliveries: Vercel answers with a page of HTML."""
    page = "<html><head><title>502</title></head><body><h1>Bad Gateway</h1></body></html>"
    fail(database, "icfg_12", 3, Outcome(OutcomeKind.FAILED, 502, None, page, 0.09, "fra1::z2-1764547300000-c01d"))


def fail_to_answer(database: Database) -> None:
    fail(database, "icfg_30", 2, Outcome(OutcomeKind.TIMEOUT, error="no answer within 10 s", duration=10.0))


def fail(database: Database, installation_id: str, resources: int, fault: Outcome) -> None:
    """Each call is one more request in a row that fails; five open the breaker."""
    with database.read() as connection:
        known = sa.select(installation.c.failures).where(installation.c.installation_id == installation_id)
        failures = connection.execute(known).scalar_one_or_none()
    if failures is None:
        announce(database, installation_id, *(f"db_{n}" for n in range(resources)))
    retry(database, DeliveryFilter(installation_id), lambda _: None)
    state = (failures or 0) + 1
    send(database, lambda _: (fault, RESTING), failures=state, faults=state)


def throttle(database: Database) -> None:
    """Of 280 subjects 40 are delivered; the next answer is 429, and 240 wait."""
    announce(database, "icfg_2", *(f"db_{n:03}" for n in range(280)))
    limited = Outcome(OutcomeKind.THROTTLED, 429, "rate_limited", "too many requests", 0.009, retry_after=2_400.0)
    throttled = Decision(Action.THROTTLE, ThrottleReason.RATE_LIMITED, 2_400)

    def reply(one: store.Delivery) -> Reply | None:
        if one.subject.resource_id == "db_040":
            return limited, throttled
        return (OK, DELIVERED) if str(one.subject.resource_id) < "db_040" else None

    send(database, reply, failures=1, throttled_for=2_400.0, rate_window=rate_window(database))


def bury(
    database: Database, installation_id: str, errors: Mapping[str, str], reason: DeadLetterReason, status: int
) -> None:
    """Makes each of these resources a dead letter with its error. One that is gone was tried four times."""
    announce(database, installation_id, *errors)

    def refusal(one: store.Delivery) -> Outcome:
        error = errors[str(one.subject.resource_id)]
        return Outcome(
            OutcomeKind(reason.value), status, "invalid_request", error, 0.088, "fra1::x9-1764547250000-ab12"
        )

    for _ in range(3 if reason is DeadLetterReason.GONE else 0):
        send(database, lambda one: (refusal(one), NOW))
    send(database, lambda one: (refusal(one), Decision(Action.BURY, reason)))


def newest(database: Database) -> int:
    """Returns the id of the newest dead letter."""
    with database.read() as connection:
        return int(connection.execute(sa.select(sa.func.max(dead_letter.c.id))).scalar_one())
