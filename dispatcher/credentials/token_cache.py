"""Tokens that were looked up: each kept for its time, looked up once however many ask, the least used forgotten."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from pydantic import SecretStr

from dispatcher.credentials.bearer_token import CredentialsUnavailable

KEPT_TOKENS = 100_000


@dataclass(frozen=True, slots=True)
class Found:
    """A token and for how many seconds it may be kept."""

    token: SecretStr
    good_for: float


class TokenCache:
    """Keeps what `find` gives for an installation; `clock` gives monotonic seconds."""

    def __init__(
        self,
        find: Callable[[str], Coroutine[Any, Any, Found]],
        clock: Callable[[], float],
        size: int = KEPT_TOKENS,
    ) -> None:
        self._find = find
        self._clock = clock
        self._size = size
        self._kept: OrderedDict[str, tuple[SecretStr, float]] = OrderedDict()
        self._flights: dict[str, asyncio.Task[SecretStr]] = {}

    async def get(self, installation_id: str, *, refused: SecretStr | None = None) -> SecretStr:
        """Returns the token; looked up if none is kept, if its time is over or if it was `refused`. Raises what `find` raises."""
        kept = self._kept.get(installation_id)
        if kept is not None and kept[0] != refused and self._clock() < kept[1]:
            self._kept.move_to_end(installation_id)
            return kept[0]
        flight = self._flights.get(installation_id) or self._take_off(installation_id)
        await asyncio.wait([flight])  # cancelling one that waits leaves the others their answer
        if flight.cancelled():
            raise CredentialsUnavailable("credentials are no longer looked up: the service is stopping")
        return flight.result()

    def has(self, installation_id: str) -> bool:
        """Whether a token is kept whose time is not over."""
        kept = self._kept.get(installation_id)
        return kept is not None and self._clock() < kept[1]

    async def aclose(self) -> None:
        """Ends every look-up under way."""
        flights = list(self._flights.values())
        for flight in flights:
            flight.cancel()
        await asyncio.gather(*flights, return_exceptions=True)

    def _take_off(self, installation_id: str) -> asyncio.Task[SecretStr]:
        flight = asyncio.create_task(self._find_and_keep(installation_id))
        self._flights[installation_id] = flight
        flight.add_done_callback(lambda done: self._land(installation_id, done))
        return flight

    def _land(self, installation_id: str, flight: asyncio.Task[SecretStr]) -> None:
        del self._flights[installation_id]
        if not flight.cancelled():
            flight.exception()  # counts as seen, also when nobody waits for it any more

    async def _find_and_keep(self, installation_id: str) -> SecretStr:
        self._kept.pop(installation_id, None)
        found = await self._find(installation_id)
        self._kept[installation_id] = (found.token, self._clock() + found.good_for)
        if len(self._kept) > self._size:
            self._kept.popitem(last=False)
        return found.token
