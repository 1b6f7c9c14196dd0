"""Who may enter: people who have logged in with the token, or those for whom a trusted proxy vouches."""

from dataclasses import dataclass
from hashlib import sha256
from hmac import compare_digest
from ipaddress import ip_address
from typing import Protocol

from starlette.requests import Request

from dispatcher.console.sessions import Session, Sessions
from dispatcher.policy.hosts import is_local
from dispatcher.settings.settings import Settings, SettingsError
from dispatcher.store.dead_letters import Signature

MAX_NAME_LENGTH = 255
"""Of a person: the column of the signature holds no more."""


class NotAdmitted(Exception):
    """The request does not come from anybody who may enter. The message says what to do about it."""


@dataclass(frozen=True, slots=True)
class Visitor:
    """The person who looks at a page."""

    name: str
    may_write: bool
    session: Session | None = None
    """None: there is nothing to log out of, because a proxy vouches for the person."""

    def sign(self, note: str) -> Signature:
        """Returns the signature of what this person does, and why."""
        return Signature(self.name[:MAX_NAME_LENGTH], note or None)


class Access(Protocol):
    """Decides who may enter."""

    def admit(self, request: Request) -> Visitor | None:
        """Returns the person, or None if they have to log in first. Raises NotAdmitted if they cannot."""


class TokenAccess:
    """People who know the token log in with it, and say who they are if they may change something."""

    def __init__(self, token: str, *, is_secure: bool, may_write: bool) -> None:
        self.sessions = Sessions(token, is_secure=is_secure)
        self.may_write = may_write
        self._digest = sha256(token.encode()).digest()

    def is_token(self, text: str) -> bool:
        """Whether this is the token. Takes as long for a wrong one as for the right one."""
        return compare_digest(sha256(text.encode(errors="replace")).digest(), self._digest)

    def admit(self, request: Request) -> Visitor | None:
        """See `Access`."""
        session = self.sessions.read(request.cookies)
        return None if session is None else Visitor(session.name, self.may_write, session)


class ProxyAccess:
    """A proxy names the person in a header, which is believed from trusted addresses only."""

    def __init__(self, settings: Settings, header: str, *, may_write: bool) -> None:
        self._header = header
        self._proxies = settings.console_trusted_proxies
        self._operators = frozenset(settings.console_operators)
        self._may_write = may_write

    def admit(self, request: Request) -> Visitor | None:
        """See `Access`."""
        peer = request.client.host if request.client else ""
        if not peer or not any(ip_address(peer.partition("%")[0]) in network for network in self._proxies):
            raise NotAdmitted(
                f"This request comes from {peer or 'an unknown address'}, which is none of DISPATCHER_CONSOLE_TRUSTED_PROXIES:"
                " open the console through its proxy, or add the proxy's address there."
            )
        names = request.headers.getlist(self._header)
        if len(names) != 1 or not names[0]:
            raise NotAdmitted(f"The proxy has to send who you are in one header {self._header}: correct its settings.")
        return Visitor(names[0], self._may_write and names[0] in self._operators)


def choose_access(settings: Settings, made_token: str, *, may_write: bool) -> Access:
    """Returns the access that the settings ask for: the proxy's header, or their token, or else `made_token`.

    Raises SettingsError if the console could be reached from elsewhere without being made for that.
    """
    if problem := _find_problem(settings):
        raise SettingsError(problem)
    if settings.console_user_header is not None:
        return ProxyAccess(settings, settings.console_user_header, may_write=may_write)
    token = made_token if settings.console_token is None else settings.console_token.get_secret_value()
    is_secure = (settings.console_url or "").lower().startswith("https://")
    return TokenAccess(token, is_secure=is_secure, may_write=may_write)


def _find_problem(settings: Settings) -> str | None:
    is_open = not is_local(settings.console_host)
    has_token, has_header = settings.console_token is not None, settings.console_user_header is not None
    if has_token and has_header:
        return "DISPATCHER_CONSOLE_TOKEN and DISPATCHER_CONSOLE_USER_HEADER are two ways to enter: keep one of them"
    if settings.console_operators and not has_header:
        return "DISPATCHER_CONSOLE_OPERATORS goes with DISPATCHER_CONSOLE_USER_HEADER: set that as well, or unset it"
    if is_open and not (has_token or has_header):
        return (
            f"DISPATCHER_CONSOLE_HOST={settings.console_host} can be reached from other machines: set"
            " DISPATCHER_CONSOLE_TOKEN_FILE or DISPATCHER_CONSOLE_USER_HEADER, or listen on 127.0.0.1"
        )
    if is_open and settings.console_url is None:
        return (
            f"DISPATCHER_CONSOLE_HOST={settings.console_host} can be reached from other machines: set DISPATCHER_CONSOLE_URL to"
            " the address that people open, or listen on 127.0.0.1"
        )
    return None
