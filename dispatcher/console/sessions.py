"""Sessions: a signed cookie says who has logged in, and until when."""

import hmac
import json
import secrets
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Mapping
from dataclasses import astuple, dataclass
from hashlib import sha256

from starlette.responses import Response

from dispatcher.settings.durations import HOUR

SESSION_SECONDS = 12 * HOUR


@dataclass(frozen=True, slots=True)
class Session:
    """A person who has logged in."""

    id: str
    name: str
    ends_at: float
    """Epoch seconds."""


class Sessions:
    """Issues and reads cookies. Their key comes from the token, so a console with another token does not take them."""

    def __init__(self, token: str, *, is_secure: bool, clock: Callable[[], float] = time.time) -> None:
        # A browser sends its cookies to all ports of a host, so to all consoles on it.
        self.cookie = f"dispatcher_console_{sha256(token.encode()).hexdigest()[:12]}"
        self._key = hmac.digest(token.encode(), b"session", "sha256")
        self._is_secure = is_secure
        self._clock = clock
        self._ended: dict[str, float] = {}

    def begin(self, name: str, response: Response) -> None:
        """Logs a person in: adds the cookie to the response."""
        session = Session(secrets.token_urlsafe(12), name, self._clock() + SESSION_SECONDS)
        payload = urlsafe_b64encode(json.dumps(astuple(session)).encode()).decode().rstrip("=")
        self._set(response, f"{payload}.{self._sign(payload)}", int(SESSION_SECONDS))

    def read(self, cookies: Mapping[str, str]) -> Session | None:
        """Returns the session of a request; None if it has none, or one that is over."""
        payload, _, signature = cookies.get(self.cookie, "").partition(".")
        if not hmac.compare_digest(signature.encode(), self._sign(payload).encode()):
            return None
        session = Session(*json.loads(urlsafe_b64decode(f"{payload}==")))
        return session if session.ends_at > self._clock() and session.id not in self._ended else None

    def end(self, session: Session, response: Response) -> None:
        """Logs a person out, also where a copy of the cookie is kept."""
        now = self._clock()
        self._ended = {id_: ends_at for id_, ends_at in self._ended.items() if ends_at > now}
        self._ended[session.id] = session.ends_at
        self._set(response, "", 0)

    def _sign(self, payload: str) -> str:
        return hmac.digest(self._key, payload.encode(), "sha256").hex()

    def _set(self, response: Response, value: str, seconds: int) -> None:
        """Without a path: the browser takes that of the page, which begins with any prefix that a proxy strips.

        Lax, because with Strict a link from a chat or an alert would arrive without the cookie.
        """
        response.set_cookie(
            self.cookie,
            value,
            max_age=seconds,
            path=None,
            secure=self._is_secure,
            httponly=True,
            samesite="lax",
        )
