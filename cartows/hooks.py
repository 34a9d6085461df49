"""The app's own functions: what ``@ws.on`` and its like register, and how they are called.

Threads: registered while the app is made; called on the reader thread of the client concerned, ``authenticate`` and, for the
    query, ``authorize`` on the request's thread.
Locks: none.
Blocks: as long as the app's function does, which delays its own client only.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Any, Protocol

from .auth.base import Authenticator, Credentials
from .errors import AuthError, CartowsError
from .message import MessageType
from .rooms import Filters
from .websocket.close_codes import CloseCode
from .websocket.frames import close_frame

__all__ = ["AppHooks", "Hooks"]

Authorize = Callable[[Any, "str | None", "str | None"], Any]

# Types that the library answers itself.
RESERVED = frozenset(
    {MessageType.PING, MessageType.PONG, MessageType.SUBSCRIBE, MessageType.UNSUBSCRIBE, MessageType.AUTH_REFRESH}
)


def _checked(credentials: Credentials) -> Credentials:
    """Return credentials that an authenticator of the app's own may have made."""
    if credentials.expires_at is not None and not math.isfinite(credentials.expires_at):
        raise CartowsError(f"Credentials(expires_at={credentials.expires_at}) cannot be used: it must be Unix time in seconds")
    return credentials


class HookClient(Protocol):
    """What the calls of the app's functions need of a client."""

    @property
    def id(self) -> str:
        """The client's id."""

    def send_internal_error(self) -> None:
        """Tell the client that the app's own code failed."""


class Hooks:
    """Hold the functions that one extension was given."""

    def __init__(self) -> None:
        self.authenticate: Callable[[Any], Any] | Authenticator | None = None
        self.authorize: Authorize | None = None
        self.messages: dict[str, Callable[..., Any]] = {}
        self.connect: list[Callable[..., Any]] = []
        self.disconnect: list[Callable[..., Any]] = []

    def add_message(self, type: str, function: Callable[..., Any]) -> None:
        """Have messages of a type handled. Raises ValueError for one that has a handler."""
        if type in RESERVED:
            raise ValueError(f"@ws.on({type!r}): messages of this type are answered by cartows itself")
        if type in self.messages:
            raise ValueError(f"@ws.on({type!r}): {self.messages[type].__name__} handles messages of this type already")
        self.messages[type] = function


class AppHooks:
    """Call the functions of an extension for one app, each in an app context of its own."""

    def __init__(self, hooks: Hooks, app: Any, logger: logging.Logger) -> None:
        self.hooks = hooks
        self._app = app
        self._logger = logger

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a function of the app in an app context, an ``async def`` too where Flask can."""
        with self._app.app_context():
            return self._app.ensure_sync(function)(*arguments)

    def identify(self, request: Any) -> Credentials:
        """Ask, in the context of the upgrade request, who sends it. Raises AuthError when it may not come in."""
        asked = self.hooks.authenticate
        if asked is None:
            return Credentials(None)
        if isinstance(asked, Authenticator):
            return _checked(asked.authenticate(request))
        found = self._app.ensure_sync(asked)(request)
        # False and "" too: the one is how the other functions refuse, the other nobody's name.
        if found is None or found is False or (isinstance(found, str) and not found):
            raise AuthError("The app does not know who you are: log in, then connect again.")
        return _checked(found) if isinstance(found, Credentials) else Credentials(found)

    @property
    def authenticator(self) -> Authenticator | None:
        """What ``ws.authenticate`` was given, unless that is a plain function."""
        asked = self.hooks.authenticate
        return asked if isinstance(asked, Authenticator) else None

    def is_allowed(self, credentials: Credentials, identity: Any, key: str | None, value: str | None) -> bool:
        """Ask the credentials, or else the app, whether somebody may hear a room; without either anybody may.

        No key and no value stand for everything.
        """
        return self._allows(self.call, credentials, identity, key, value)

    def _allows(
        self, call: Callable[..., Any], credentials: Credentials, identity: Any, key: str | None, value: str | None
    ) -> bool:
        if credentials.allowed_rooms is not None:
            return credentials.allowed_rooms.unfiltered or (key, value) in credentials.allowed_rooms.rooms
        authorize = self.hooks.authorize
        return authorize is None or bool(call(authorize, identity, key, value))

    def _call_in_request(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a function in the request's own context: another would hide what the app's before_request has put into ``g``."""
        return self._app.ensure_sync(function)(*arguments)

    def refused(self, credentials: Credentials, filters: Filters) -> tuple[str | None, str | None] | None:
        """Ask, in the context of the upgrade request, for the filters of its query, or for everything when it names none.

        Returns the first that is refused: a room, or (None, None) for everything.
        """
        rooms: list[tuple[str | None, str | None]] = [(key, value) for key, values in filters.items() for value in values]
        # Who is known and asks for no room hears nothing that could be refused. Whoever is not may be meant to stay outside.
        if not rooms and not (filters and credentials.identity is not None):
            rooms.append((None, None))
        for key, value in rooms:
            if not self._allows(self._call_in_request, credentials, credentials.identity, key, value):
                return key, value
        return None

    def refresh(self, token: str) -> Credentials:
        """Ask what a new token says. Raises AuthError."""
        if self.authenticator is None:
            raise AuthError("Credentials are not refreshed here: connect again.")
        return _checked(self.call(self.authenticator.refresh, token))

    @property
    def recheck_interval(self) -> float | None:
        """How often ``is_valid`` is to be asked, in seconds; None for never."""
        return None if self.authenticator is None else self.authenticator.recheck_interval

    def is_valid(self, credentials: Credentials) -> bool:
        """Ask whether somebody may stay."""
        return self.authenticator is None or bool(self.call(self.authenticator.is_valid, credentials))

    def connected(self, client: HookClient) -> int | None:
        """Tell the app of a client that is about to be registered; returns a close code when the app refuses it."""
        for function in self.hooks.connect:
            said = self._tell(client, function)
            if said is False:
                return CloseCode.FORBIDDEN
            if isinstance(said, int) and said is not True:
                return self._close_code(said)
        return None

    def _close_code(self, said: int) -> int:
        try:
            close_frame(said)
        except ValueError as error:
            self._logger.error("cartows: on_connect refused a client with what it cannot be closed with, so 3507: %s", error)
            return CloseCode.FORBIDDEN
        return said

    def disconnected(self, client: HookClient) -> None:
        """Tell the app of a client that has gone."""
        for function in self.hooks.disconnect:
            self._tell(client, function)

    def _tell(self, client: HookClient, function: Callable[..., Any]) -> Any:
        try:
            return self.call(function, client)
        except Exception:
            self._logger.exception("cartows: the app's on_connect or on_disconnect failed for client %s", client.id)
            client.send_internal_error()
            return None
