"""Looks tokens up before requests begin, concurrently with the requests in flight, so that a slow look-up delays only its own
installation.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial

from pydantic import SecretStr

from dispatcher.credentials.sources import Credentials, CredentialsUnavailable, NoCredential
from dispatcher.policy.outcome import Outcome, OutcomeKind
from dispatcher.worker.lease import HeldLease


async def find_token(
    credentials: Credentials, installation_id: str, refused: SecretStr | None = None
) -> SecretStr | Outcome:
    """Returns the installation's token, or the outcome of its requests if there is none."""
    try:
        return await credentials.token(installation_id, refused=refused)
    except NoCredential as error:
        return Outcome(OutcomeKind.NO_CREDENTIAL, error=str(error))
    except CredentialsUnavailable as error:
        return Outcome(OutcomeKind.CREDENTIALS_UNAVAILABLE, error=str(error))


class LookUps:
    """Runs at most `limit` look-ups at a time, one for each lease. At the end of each, `done` is called with the lease, and with the
    outcome if there is no token.
    """

    def __init__(self, credentials: Credentials, limit: int, done: Callable[[HeldLease, Outcome | None], None]) -> None:
        self._credentials = credentials
        self._limit = limit
        self._done = done
        self._leases: set[HeldLease] = set()
        self._waiting: deque[HeldLease] = deque()
        self._under_way: set[asyncio.Task[SecretStr | Outcome]] = set()

    def __contains__(self, lease: HeldLease) -> bool:
        """Whether the lease's token is being looked up, or waits for that."""
        return lease in self._leases

    def begin(self, lease: HeldLease) -> None:
        """Looks the lease's token up as soon as the limit allows."""
        self._leases.add(lease)
        self._waiting.append(lease)
        self._start()

    def end(self) -> None:
        """Cancels all look-ups, without calling `done`."""
        self._waiting.clear()
        for task in self._under_way:
            task.cancel()

    def _start(self) -> None:
        while self._waiting and len(self._under_way) < self._limit:
            lease = self._waiting.popleft()
            task = asyncio.create_task(find_token(self._credentials, lease.installation_id))
            self._under_way.add(task)
            task.add_done_callback(partial(self._ended, lease))

    def _ended(self, lease: HeldLease, task: asyncio.Task[SecretStr | Outcome]) -> None:
        self._under_way.discard(task)
        self._leases.discard(lease)
        self._start()
        if not task.cancelled():
            result = task.result()
            self._done(lease, result if isinstance(result, Outcome) else None)
