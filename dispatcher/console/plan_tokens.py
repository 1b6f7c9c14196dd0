"""Plan tokens: a form carries the plan that its page has shown, signed, so that nothing else can be confirmed, by nobody else."""

import hmac
import json
import secrets
import time
from collections.abc import Callable
from dataclasses import astuple, dataclass

from dispatcher.console.access import Visitor
from dispatcher.settings.durations import MINUTE

PLAN_SECONDS = 10 * MINUTE


@dataclass(frozen=True, slots=True)
class Promise:
    """What a page has announced that its form does."""

    action: str
    scope: str
    """What the action takes, as the URL has it."""
    last_id: int = 0
    """The newest dead letter that it takes."""
    number: int = 0
    """How many it takes."""


class PlanTokens:
    """Signs and reads tokens. The key ends with the process, as its operations do."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._key = secrets.token_bytes(32)
        self._clock = clock

    def issue(self, visitor: Visitor, promise: Promise) -> str:
        """Returns a token that this visitor can use for ten minutes."""
        ends_at = int(self._clock() + PLAN_SECONDS)
        return f"{promise.last_id}.{promise.number}.{ends_at}.{self._sign(visitor, promise, ends_at)}"

    def read(self, visitor: Visitor, action: str, scope: str, token: str) -> Promise | None:
        """Returns the promise; None if the token is another visitor's, for something else, altered, or too old."""
        *numbers, signature = token.split(".")
        if len(numbers) != 3 or not all(text.isascii() and text.isdigit() and len(text) < 20 for text in numbers):
            return None
        last_id, number, ends_at = map(int, numbers)
        promise = Promise(action, scope, last_id, number)
        expected = self._sign(visitor, promise, ends_at)
        is_valid = hmac.compare_digest(signature.encode(), expected.encode()) and ends_at > self._clock()
        return promise if is_valid else None

    def _sign(self, visitor: Visitor, promise: Promise, ends_at: int) -> str:
        session = None if visitor.session is None else visitor.session.id
        signed = json.dumps([session, visitor.name, *astuple(promise), ends_at])
        return hmac.digest(self._key, signed.encode(), "sha256").hex()
