"""The whole journey in one terminal: a partner's application, the dispatcher, and a stand-in for Vercel with bad days."""

import asyncio
import logging
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import sqlalchemy as sa
from pydantic import SecretStr
from sqlalchemy import Connection

from dispatcher import ResourceUpdated, publish
from dispatcher.database import schema
from dispatcher.database.transactions import Database, open_database
from dispatcher.inspection.backlog import Backlog, measure
from dispatcher.outbox.tables import dead_letter, delivery
from dispatcher.sandbox import Fault, ReceivedRequest, Sandbox
from dispatcher.service import service
from dispatcher.settings.settings import LogFormat, LogLevel, Settings
from dispatcher.telemetry import configure_logging

INSTALLATIONS = tuple(f"icfg_demo{number}" for number in range(8))
REVOKED = "icfg_revoked"
UNKNOWN = "db_unknown"
ROLLED_BACK = "db_rolled_back"
BURST = "db_burst"
CHANGES = 300
LONGEST = 15.0
"""Seconds that the dispatcher is given to deliver everything once the last change is committed."""

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Change:
    """A committed change, and the moment (epoch seconds) before its commit."""

    installation_id: str
    resource_id: str
    at: float


@dataclass(frozen=True, slots=True)
class Account:
    """How it went. `broken`: committed changes that neither a later request, nor a dead letter, nor a waiting delivery covers."""

    changes: int
    requests: int
    delivered: int
    coalesced: int
    retried: int
    dead_letters: dict[str, int]
    paused: dict[str, int]
    waiting: int
    lag_median: float
    lag_worst: float
    broken: list[str]
    database: str


@dataclass(slots=True)
class Application:
    """The partner's: each change is one transaction that also inserts the event."""

    database: Database
    changes: list[Change] = field(default_factory=list)
    stopped: threading.Event = field(default_factory=threading.Event)

    def set_up(self) -> None:
        """Its own table."""
        with self.database.engine.begin() as connection:
            connection.execute(sa.text("CREATE TABLE resource (id TEXT PRIMARY KEY, version INTEGER NOT NULL)"))

    def change(self, installation_id: str, resource_id: str) -> None:
        """One change that is committed."""
        with self.database.engine.connect() as connection, connection.begin() as transaction:
            self._write(connection, installation_id, resource_id)
            at = time.time()
            transaction.commit()
        self.changes.append(Change(installation_id, resource_id, at))

    def change_and_roll_back(self, installation_id: str, resource_id: str) -> None:
        """One change that never happened."""
        with self.database.engine.connect() as connection, connection.begin() as transaction:
            self._write(connection, installation_id, resource_id)
            transaction.rollback()

    def _write(self, connection: Connection, installation_id: str, resource_id: str) -> None:
        upsert = "INSERT INTO resource VALUES (:id, 1) ON CONFLICT (id) DO UPDATE SET version = version + 1"
        connection.execute(sa.text(upsert), {"id": resource_id})
        publish(connection, ResourceUpdated(installation_id=installation_id, resource_id=resource_id))


async def run_demo(say: Say) -> Account:
    """Runs it, telling `say` what happens; the account says whether the law was kept.

    Its database stays for whoever wants to look further. Raises KeyboardInterrupt if SIGINT or SIGTERM ended it: then nothing stays.
    """
    configure_logging(LogFormat.AUTO, LogLevel.ERROR)
    logging.getLogger("dispatcher").disabled = True  # its lines would drown the story
    with _directory() as directory:
        path = directory / "demo.db"
        database = open_database(f"sqlite:///{path}")
        try:
            return await _run(path, database, say)
        except asyncio.CancelledError:  # before the service handled signals
            raise KeyboardInterrupt from None
        finally:
            database.close()


@contextmanager
def _directory() -> Iterator[Path]:
    """One for the demo alone, which is gone if the demo does not come to its end."""
    _interrupt_on_sigterm()
    directory = Path(tempfile.mkdtemp(prefix="dispatcher-demo-"))
    try:
        yield directory
    except BaseException:
        shutil.rmtree(directory)
        raise


def _interrupt_on_sigterm() -> None:
    """SIGTERM is as good as SIGINT, until the service handles both."""
    task = asyncio.current_task()
    if task is not None and sys.platform != "win32":
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)


async def _run(path: Path, database: Database, say: Say) -> Account:
    schema.migrate(database)
    application = Application(database)
    application.set_up()
    async with Sandbox() as sandbox:
        _script_faults(sandbox)
        say(f"Vercel's stand-in listens on {sandbox.url}; the database is {path}")
        stop = asyncio.Event()
        running = asyncio.create_task(service.run(_settings(path, sandbox.url), stop))
        watching = asyncio.create_task(_watch(application, sandbox, database, say))
        playing = asyncio.create_task(_play(application, database, say))
        try:
            await asyncio.wait({running, playing}, return_when=asyncio.FIRST_COMPLETED)
            interrupted = not playing.done()
        finally:
            application.stopped.set()
            stop.set()
            watching.cancel()
            await asyncio.wait({running, playing, watching})
        running.result()
        if interrupted:
            raise KeyboardInterrupt
        return await asyncio.to_thread(_settle_account, application, sandbox.requests, database)


def tell(account: Account, command: str, say: Say) -> None:
    """The account in words, and how to look further; `command` is how this program is called."""
    say("")
    say(f"{account.changes} committed changes were announced in {account.requests} requests:")
    say(f"  {account.delivered} delivered, {account.coalesced} changes coalesced into another's request")
    say(f"  {account.retried} answers other than success (503, 429, 404, 401), each retried, paused or buried")
    say(f"  lag from commit to request: {account.lag_median:.2f} s in the median, {account.lag_worst:.2f} s at worst")
    for reason, count in account.dead_letters.items():
        say(f"  {count} dead letter ({reason}): Vercel does not know the resource {UNKNOWN}")
    for reason, count in account.paused.items():
        say(
            f"  {count} installation paused ({reason}): its {account.waiting} deliveries are kept until its token works"
        )
    say("")
    if account.broken:
        say(f"THE LAW WAS BROKEN for {len(account.broken)} changes: {', '.join(account.broken[:5])}")
    else:
        say("The law held: for every committed change, a successful request started after its commit,")
        say("or the dead letters or a paused installation say why not. The change that was rolled back was never sent.")
    say("")
    say("Look further:")
    say(f"  export DISPATCHER_DATABASE_URL=sqlite:///{account.database}")
    for arguments in ("status", "dead-letters list", f"explain {UNKNOWN}", "installations list"):
        say(f"  {command} {arguments}")
    say(f"  rm -r {Path(account.database).parent}")


def _settings(path: Path, url: str) -> Settings:
    return Settings(
        database_url=SecretStr(f"sqlite:///{path}"),
        vercel_base_url=url,
        allow_insecure_base_url=True,
        vercel_token=SecretStr("demo-token"),  # any will do
        backoff_base=0.2,
        backoff_cap=0.5,
        ops_host="127.0.0.1",
        ops_port=0,
    )


def _script_faults(sandbox: Sandbox) -> None:
    sandbox.script(
        Fault(installation_id=REVOKED, status=401),
        Fault(resource_id=UNKNOWN, status=404),
        Fault(installation_id=INSTALLATIONS[1], status=429, headers={"Retry-After": "1"}, times=1),
        Fault(installation_id=INSTALLATIONS[2], cut="after", times=2),
    )


async def _play(application: Application, database: Database, say: Say) -> None:
    """What the application does, in a few seconds, then waits until everything has gone out."""
    await asyncio.to_thread(_change_everything, application, say)
    deadline = time.monotonic() + LONGEST
    while time.monotonic() < deadline and not application.stopped.is_set():
        left = await asyncio.to_thread(measure, database)
        if not left.left - left.paused:
            return
        await asyncio.sleep(0.1)


def _change_everything(application: Application, say: Say) -> None:
    choose = random.Random(8377)  # noqa: S311 (a story, not a secret)
    application.change_and_roll_back(INSTALLATIONS[0], ROLLED_BACK)
    application.change(INSTALLATIONS[0], UNKNOWN)
    for number in range(CHANGES):
        application.change(choose.choice(INSTALLATIONS), f"db_{choose.randrange(30)}")
        if number % 50 == 0:
            application.change(REVOKED, f"db_revoked_{number}")
        if application.stopped.wait(0.01):
            return
    say("a burst: 100 changes of one resource")
    for _ in range(100):
        application.change(INSTALLATIONS[3], BURST)


async def _watch(application: Application, sandbox: Sandbox, database: Database, say: Say) -> None:
    began, spell = time.monotonic(), False
    while True:
        await asyncio.sleep(0.5)
        if not spell and time.monotonic() - began > 1:
            spell = True
            sandbox.script(Fault(status=503, times=14))
            say(
                "a bad spell begins: Vercel answers the next 14 requests with 503. The dispatcher lets probes through, one"
            )
            say("at a time, and once Vercel is back it sends faster and faster")
        left: Backlog = await asyncio.to_thread(measure, database)
        good = sum(one.status == 201 for one in sandbox.requests)
        say(
            f"{time.monotonic() - began:4.1f} s  {len(application.changes):3} changes committed, {len(sandbox.requests):3} "
            f"requests, {good:3} successful; {left.outbox + left.due:2} due, {left.waiting:2} waiting, {left.paused} paused"
        )


def _settle_account(application: Application, requests: Sequence[ReceivedRequest], database: Database) -> Account:
    good = [one for one in requests if one.status == 201]
    last: dict[tuple[object, object], float] = {}
    for one in good:
        last[one.installation_id, one.event["resourceId"]] = one.received_at
    excused, reasons = _excuses(database)
    left = measure(database)
    lags = sorted(_lags(application.changes, good))
    broken = [
        f"{change.installation_id}/{change.resource_id}"
        for change in application.changes
        if last.get(subject := (change.installation_id, change.resource_id), 0.0) < change.at and subject not in excused
    ]
    broken += [ROLLED_BACK for one in requests if one.event.get("resourceId") == ROLLED_BACK]
    return Account(
        changes=len(application.changes),
        requests=len(requests),
        delivered=len(good),
        coalesced=len(lags) - len(good),
        retried=len(requests) - len(good),
        dead_letters=reasons,
        paused=left.paused_installations,
        waiting=left.left,
        lag_median=lags[len(lags) // 2],
        lag_worst=lags[-1],
        broken=broken,
        database=str(database.engine.url.database),
    )


def _excuses(database: Database) -> tuple[set[tuple[object, object]], dict[str, int]]:
    """The subjects that are explained in the dead letters or wait in a delivery, and the dead letters by reason."""
    with database.read() as connection:
        dead = connection.execute(sa.select(dead_letter).where(dead_letter.c.resolved_at.is_(None))).all()
        waiting = connection.execute(sa.select(delivery)).all()
    return {(row.installation_id, row.resource_id) for row in [*dead, *waiting]}, dict(
        Counter(row.reason for row in dead)
    )


def _lags(changes: Sequence[Change], good: Sequence[ReceivedRequest]) -> list[float]:
    """Of each change that was delivered: the seconds until the first successful request that covers it."""
    arrivals: dict[tuple[object, object], list[float]] = {}
    for one in good:
        arrivals.setdefault((one.installation_id, one.event["resourceId"]), []).append(one.received_at)
    found = (
        next((at for at in arrivals.get((change.installation_id, change.resource_id), ()) if at >= change.at), None)
        for change in changes
    )
    return [at - change.at for at, change in zip(found, changes, strict=True) if at is not None]
