"""Tokens from a query on the partner's own tables."""

import asyncio
import threading
import time
from collections.abc import Sequence
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

CUT_INTERVAL_SECONDS = 0.1
"""While it closes, the source cuts the connections of unfinished look-ups at this interval."""


class QueryCredentials:
    """Finds a token with a query that returns a single value for `:installation_id`; keeps it for `ttl` seconds.

    Each query runs in a thread and on a connection of its own, at most `max_look_ups` at a time, in a transaction that is always rolled
    back. After `deadline` seconds the connection is cut. `aclose` also closes `database`. Raises SettingsError if the query has other
    parameters.
    """

    def __init__(
        self,
        database: Database,
        query: str,
        ttl: float,
        *,
        deadline: float,
        max_look_ups: int = 8,
    ) -> None:
        self._database = database
        self._engine = database.engine.execution_options(reads_only=True)
        self._query = sa.text(query)
        self._ttl = ttl
        self._deadline = deadline
        self._cache = TokenCache(self._find, time.monotonic)
        self._executor = ThreadPoolExecutor(max_look_ups, thread_name_prefix="credentials")
        self._threads: dict[str, int] = {}
        """The thread that runs the query of each installation."""
        if others := self._query.compile().params.keys() - {"installation_id"}:
            shown = next(
                (f":{name}" for name in sorted(others) if f":{name}" in mask_query(query)), "a : within quotes"
            )
            raise SettingsError(
                f"DISPATCHER_CREDENTIALS_QUERY uses {shown}, but only :installation_id is filled in: "
                r"write \: for a literal colon"
            )

    def is_at_hand(self, installation_id: str) -> bool:
        return self._cache.has(installation_id)

    async def token(self, installation_id: str, *, refused: SecretStr | None = None) -> SecretStr:
        check_installation_id(installation_id)
        return await self._cache.get(installation_id, refused=refused)

    async def aclose(self) -> None:
        await self._cache.aclose()
        ending = asyncio.create_task(asyncio.to_thread(self._executor.shutdown, cancel_futures=True))
        while not (await asyncio.wait([ending], timeout=CUT_INTERVAL_SECONDS))[0]:
            for thread in list(self._threads.values()):
                self._cut(thread)
        self._database.close()

    async def _find(self, installation_id: str) -> Found:
        value = await self._look_up(installation_id)
        source = f"the result of DISPATCHER_CREDENTIALS_QUERY for {installation_id}"
        match value:
            case str():
                return Found(check_token(value, source), self._ttl)
            case bytes() | bytearray() | memoryview():
                return Found(check_token(bytes(value), source), self._ttl)
            case None:
                raise NoCredential(f"{source} is NULL: store the installation's access token there")
        raise NoCredential(f"{source} is of type {type(value).__name__}: it must be text")

    async def _look_up(self, installation_id: str) -> object:
        """Runs the query in a thread. At the deadline its connection is cut, or, while no thread is free, it is cancelled."""
        query = self._executor.submit(self._run_query, installation_id)
        running, late = asyncio.wrap_future(query), False
        running.add_done_callback(_retrieve_error)
        try:
            while not (await asyncio.wait([running], timeout=self._deadline))[0] and not query.cancel():
                late = True
                self._cut(self._threads.get(installation_id))
        finally:
            running.cancel()  # otherwise it would call an event loop that may be closed by then
        if late or query.cancelled():
            raise CredentialsUnavailable(
                f"DISPATCHER_CREDENTIALS_QUERY gave no answer within {format_duration(self._deadline)},"
                " which is DISPATCHER_REQUEST_TIMEOUT: look for a missing index or a lock on its tables"
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
        except (SQLAlchemyError, ValueError) as error:  # ValueError: the driver cannot decode the value
            raise CredentialsUnavailable(
                f"DISPATCHER_CREDENTIALS_QUERY failed ({error_code(error)}): run it in the database's own client to see"
                " why; the database's message is not shown, because it can repeat a token"
            ) from None
        return _only_value(rows, installation_id)


def _retrieve_error(query: asyncio.Future[object]) -> None:
    """Prevents asyncio from logging the error of a query that is no longer awaited."""
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
        raise NoCredential(
            f"DISPATCHER_CREDENTIALS_QUERY returns several rows for {installation_id}: it must return one"
        )
    return rows[0][0]
