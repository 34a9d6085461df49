"""The app's own functions: what ``@ws.on`` and its like register, and how they are called.

Threads: registered while the app is made; called on the reader thread of the client concerned, ``authenticate`` and, for the
    query, ``authorize`` on the request's thread.
Locks: none.
Blocks: as long as the app's function does, which delays its own client only.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .credentials import Authenticator, Credentials
from .errors import AuthError
from .frames import close_frame
from .message import MessageType
from .rooms import Hearing
from .subscriptions import Filters

if TYPE_CHECKING:
    from .client import Client

__all__ = ["AppHooks", "Hooks"]

Authorize = Callable[[Any, "str | None", "str | None"], Any]

# The close code for who is refused without one.
FORBIDDEN = 3507

# Types that the library answers itself.
RESERVED = frozenset(
    {MessageType.PING, MessageType.PONG, MessageType.SUBSCRIBE, MessageType.UNSUBSCRIBE, MessageType.AUTH_REFRESH}
)


def _covers(hearing: Hearing, key: str | None, value: str | None) -> bool:
    return hearing.unfiltered or (key, value) in hearing.rooms


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
            return asked.authenticate(request)
        found = self._app.ensure_sync(asked)(request)
        # False too: that is how the other functions refuse.
        if found is None or found is False:
            raise AuthError("The app does not know who you are: log in, then connect again.")
        return found if isinstance(found, Credentials) else Credentials(found)

    @property
    def authenticator(self) -> Authenticator | None:
        """What ``ws.authenticate`` was given, unless that is a plain function."""
        asked = self.hooks.authenticate
        return asked if isinstance(asked, Authenticator) else None

    def may_hear(self, credentials: Credentials, identity: Any, key: str, value: str) -> bool:
        """Ask the credentials, or else the app, whether somebody may hear a room; without either anybody may."""
        authorize = self.hooks.authorize
        if credentials.may_hear is not None:
            return _covers(credentials.may_hear, key, value)
        return authorize is None or bool(self.call(authorize, identity, key, value))

    def may_hear_everything(self, credentials: Credentials, identity: Any) -> bool:
        """Ask the credentials, or else the app, whether somebody may hear everything."""
        authorize = self.hooks.authorize
        if credentials.may_hear is not None:
            return credentials.may_hear.unfiltered
        return authorize is None or bool(self.call(authorize, identity, None, None))

    def refused(self, credentials: Credentials, filters: Filters) -> tuple[str | None, str | None] | None:
        """Ask, in the context of the upgrade request, for the filters of its query, or for everything when it has none.

        Returns the first that is refused: a room, or (None, None) for everything.
        """
        rooms: list[tuple[str | None, str | None]] = [(key, value) for key, values in filters.items() for value in values]
        for key, value in rooms or [(None, None)]:
            if credentials.may_hear is not None:
                allowed = _covers(credentials.may_hear, key, value)
            else:
                # Not by ``call``: a context of its own would hide what the app's before_request has put into ``g``.
                authorize = self.hooks.authorize
                allowed = authorize is None or bool(self._app.ensure_sync(authorize)(credentials.identity, key, value))
            if not allowed:
                return key, value
        return None

    def refresh(self, token: str) -> Credentials:
        """Ask what a new token says. Raises AuthError."""
        if self.authenticator is None:
            raise AuthError("Credentials are not refreshed here: connect again.")
        credentials: Credentials = self.call(self.authenticator.refresh, token)
        return credentials

    @property
    def recheck_every(self) -> float | None:
        """How often ``still_good`` is to be asked, in seconds; None for never."""
        return None if self.authenticator is None else self.authenticator.recheck_every

    def still_good(self, credentials: Credentials) -> bool:
        """Ask whether somebody may stay."""
        return self.authenticator is None or bool(self.call(self.authenticator.still_good, credentials))

    def connected(self, client: Client) -> int | None:
        """Tell the app of a client that is about to be registered; returns a close code when the app refuses it."""
        for function in self.hooks.connect:
            said = self._tell(client, function)
            if said is False:
                return FORBIDDEN
            if isinstance(said, int) and said is not True:
                return self._close_code(said)
        return None

    def _close_code(self, said: int) -> int:
        try:
            close_frame(said)
        except ValueError as error:
            self._logger.error("cartows: on_connect refused a client with what it cannot be closed with, so 3507: %s", error)
            return FORBIDDEN
        return said

    def disconnected(self, client: Client) -> None:
        """Tell the app of a client that has gone."""
        for function in self.hooks.disconnect:
            self._tell(client, function)

    def _tell(self, client: Client, function: Callable[..., Any]) -> Any:
        try:
            return self.call(function, client)
        except Exception:
            self._logger.exception("cartows: the app's on_connect or on_disconnect failed for client %s", client.id)
            client.send_internal_error()
            return None
