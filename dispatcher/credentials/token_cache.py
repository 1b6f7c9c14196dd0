"""A cache of tokens: each expires after its own time, concurrent look-ups of one are merged, the least recently used is evicted."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from pydantic import SecretStr

from dispatcher.credentials.bearer_token import CredentialsUnavailable

MAX_KEPT_TOKENS = 100_000


@dataclass(frozen=True, slots=True)
class Found:
    """The result of a look-up."""

    token: SecretStr
    good_for: float
    """How many seconds the token may be kept."""


class TokenCache:
    """Keeps up to `size` tokens that `find` returned. `clock` returns monotonic seconds."""

    def __init__(
        self,
        find: Callable[[str], Coroutine[Any, Any, Found]],
        clock: Callable[[], float],
        size: int = MAX_KEPT_TOKENS,
    ) -> None:
        self._find = find
        self._clock = clock
        self._size = size
        self._kept: OrderedDict[str, tuple[SecretStr, float]] = OrderedDict()
        self._look_ups: dict[str, asyncio.Task[SecretStr]] = {}

    async def get(self, installation_id: str, *, refused: SecretStr | None = None) -> SecretStr:
        """Returns the token, after a look-up if none is kept, if it has expired or if it is `refused`. Raises the errors of `find`."""
        kept = self._kept.get(installation_id)
        if kept is not None and kept[0] != refused and self._clock() < kept[1]:
            self._kept.move_to_end(installation_id)
            return kept[0]
        look_up = self._look_ups.get(installation_id) or self._start(installation_id)
        await asyncio.wait([look_up])  # cancelling one caller must not cancel the look-up of the others
        if look_up.cancelled():
            raise CredentialsUnavailable("credentials are no longer looked up: the service is stopping")
        return look_up.result()

    def has(self, installation_id: str) -> bool:
        """Whether a token is kept that has not expired."""
        kept = self._kept.get(installation_id)
        return kept is not None and self._clock() < kept[1]

    async def aclose(self) -> None:
        """Cancels the look-ups in progress."""
        look_ups = list(self._look_ups.values())
        for look_up in look_ups:
            look_up.cancel()
        await asyncio.gather(*look_ups, return_exceptions=True)

    def _start(self, installation_id: str) -> asyncio.Task[SecretStr]:
        look_up = asyncio.create_task(self._find_and_keep(installation_id))
        self._look_ups[installation_id] = look_up
        look_up.add_done_callback(lambda done: self._finish(installation_id, done))
        return look_up

    def _finish(self, installation_id: str, look_up: asyncio.Task[SecretStr]) -> None:
        del self._look_ups[installation_id]
        if not look_up.cancelled():
            look_up.exception()  # retrieved, so that asyncio does not log an error that is no longer awaited

    async def _find_and_keep(self, installation_id: str) -> SecretStr:
        self._kept.pop(installation_id, None)
        found = await self._find(installation_id)
        self._kept[installation_id] = (found.token, self._clock() + found.good_for)
        if len(self._kept) > self._size:
            self._kept.popitem(last=False)
        return found.token
