"""The partner's own table as the source of tokens."""

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import sqlalchemy as sa
from pydantic import SecretStr
from sqlalchemy.exc import SQLAlchemyError

from dispatcher.credentials.bearer_token import CredentialsUnavailable, NoCredential, check_installation_id, check_token
from dispatcher.credentials.token_cache import Found, TokenCache
from dispatcher.database.errors import error_code
from dispatcher.database.transactions import Database
from dispatcher.settings.durations import format_duration
from dispatcher.settings.masking import mask_query
from dispatcher.settings.settings import SettingsError

MAX_LOOK_UPS = 8
"""Threads, and so connections, that look up tokens at a time."""
CUT_SECONDS = 0.1
"""How long the end waits for look-ups, again and again, before it cuts their connections."""


class QueryCredentials:
    """The one value that a query on the partner's tables gives for `:installation_id`, kept for `ttl` seconds.

    The query runs in a thread and on a connection of its own, in a transaction that is always rolled back. After `deadline` seconds
    its connection is cut. `database` is closed with this. Raises SettingsError.
    """

    def __init__(
        self,
        database: Database,
        query: str,
        ttl: float,
        *,
        deadline: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._engine = database.engine.execution_options(reads_only=True)
        self._query = sa.text(query)
        self._ttl = ttl
        self._deadline = deadline
        self._cache = TokenCache(self._find, clock)
        self._executor = ThreadPoolExecutor(MAX_LOOK_UPS, thread_name_prefix="credentials")
        self._threads: dict[str, int] = {}
        """Which thread runs the query for which installation."""
        if others := self._query.compile().params.keys() - {"installation_id"}:
            shown = next(
                (f":{name}" for name in sorted(others) if f":{name}" in mask_query(query)), "a : within quotes"
            )
            raise SettingsError(
                f"DISPATCHER_CREDENTIALS_QUERY uses {shown}, but only :installation_id is filled in: "
                r"write \: for a colon that means itself"
            )

    def is_at_hand(self, installation_id: str) -> bool:
        return self._cache.has(installation_id)

    async def token(self, installation_id: str, *, refused: SecretStr | None = None) -> SecretStr:
        check_installation_id(installation_id)
        return await self._cache.get(installation_id, refused=refused)

    async def aclose(self) -> None:
        await self._cache.aclose()
        ending = asyncio.create_task(asyncio.to_thread(self._executor.shutdown, cancel_futures=True))
        while not (await asyncio.wait([ending], timeout=CUT_SECONDS))[0]:
            for thread in list(self._threads.values()):
                self._cut(thread)
        self._database.close()

    async def _find(self, installation_id: str) -> Found:
        value = await self._look_up(installation_id)
        source = f"what DISPATCHER_CREDENTIALS_QUERY finds for {installation_id}"
        match value:
            case str():
                return Found(check_token(value, source), self._ttl)
            case bytes() | bytearray() | memoryview():
                return Found(check_token(bytes(value), source), self._ttl)
            case None:
                raise NoCredential(f"{source} is NULL: store the installation's access token there")
        raise NoCredential(f"{source} is of type {type(value).__name__}: it must be text")

    async def _look_up(self, installation_id: str) -> object:
        """At the deadline the query ends, and with it the wait of its thread; one that has found no thread does not begin."""
        query = self._executor.submit(self._run_query, installation_id)
        running, late = asyncio.wrap_future(query), False
        running.add_done_callback(_see)
        try:
            while not (await asyncio.wait([running], timeout=self._deadline))[0] and not query.cancel():
                late = True
                self._cut(self._threads.get(installation_id))
        finally:
            running.cancel()  # else it would look for an event loop that may have ended by then
        if late or query.cancelled():
            raise CredentialsUnavailable(
                f"DISPATCHER_CREDENTIALS_QUERY gave no answer within {format_duration(self._deadline)},"
                " which is DISPATCHER_REQUEST_TIMEOUT: look for an index that it lacks, or for a lock on its tables"
            )
        return running.result()

    def _cut(self, thread: int | None) -> None:
        if thread is not None:
            self._database.cut_connections(thread)

    def _run_query(self, installation_id: str) -> object:
        self._threads[installation_id] = threading.get_ident()
        try:
            return self._fetch(installation_id)
        finally:
            self._threads.pop(installation_id, None)

    def _fetch(self, installation_id: str) -> object:
        try:
            connection = self._engine.connect()
        except SQLAlchemyError as error:
            raise CredentialsUnavailable(
                f"DISPATCHER_CREDENTIALS_QUERY failed: the database cannot be reached ({error_code(error)})"
            ) from None
        try:
            with connection:
                rows = connection.execute(self._query, {"installation_id": installation_id}).fetchmany(2)
        except (SQLAlchemyError, ValueError) as error:  # ValueError: a driver could not decode what it was sent
            raise CredentialsUnavailable(
                f"DISPATCHER_CREDENTIALS_QUERY failed ({error_code(error)}): run it in the database's own client to see"
                " why; the database's message is not shown, because it can repeat a token"
            ) from None
        return _only_value(rows, installation_id)


def _see(query: asyncio.Future[object]) -> None:
    """An error counts as seen, also when nobody waits for it any more."""
    if not query.cancelled():
        query.exception()


def _only_value(rows: Sequence[sa.Row[Any]], installation_id: str) -> object:
    if not rows:
        raise NoCredential(f"DISPATCHER_CREDENTIALS_QUERY finds no row for {installation_id}")
    if len(rows[0]) != 1:
        raise CredentialsUnavailable(
            f"DISPATCHER_CREDENTIALS_QUERY gives {len(rows[0])} columns: select the token alone"
        )
    if len(rows) > 1:
        raise NoCredential(f"DISPATCHER_CREDENTIALS_QUERY finds several rows for {installation_id}: it must give one")
    return rows[0][0]
