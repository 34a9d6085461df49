"""The app's own functions: what ``@ws.on`` and its like register, and how they are called.

**Threads**: registered while the app is made; called on the reader thread of the client concerned. ``authenticate`` and
``first_refused`` are called on the request's thread, ``is_valid`` on the rechecker's.
**Blocks**: as long as the app's function does, which delays its own client only.
"""

from __future__ import annotations

import inspect
import logging
import math
import uuid
from collections.abc import Callable, Mapping, Sized
from http import HTTPStatus
from typing import Any, Protocol

from .auth.base import Authenticator, Credentials
from .errors import RAISES_HUB_CLOSED, AuthError, CartowsError
from .identity import current_object, identity_string
from .message import MessageType
from .rooms import Filters
from .websocket.close_codes import CloseCode
from .websocket.frames import close_frame

__all__ = ["AppHooks", "Hooks", "RefusedByApp", "is_agreement"]

Authorize = Callable[[Any, "str | None", "str | None"], Any]

# Message types that the library answers itself.
RESERVED = frozenset(
    {MessageType.PING, MessageType.PONG, MessageType.SUBSCRIBE, MessageType.UNSUBSCRIBE, MessageType.AUTH_REFRESH}
)


class HookClient(Protocol):
    """What a call of the app's functions needs of a client."""

    @property
    def id(self) -> str:
        """The client's id."""

    def send_internal_error(self) -> None:
        """Send the client an ``error INTERNAL``: the app's own code failed."""


class RefusedByApp(Exception):
    """The app's ``authenticate`` returned what a view returns: ``answer``, a response or a tuple of a body and a status."""

    def __init__(self, answer: Any) -> None:
        super().__init__("the app answers the request itself")
        self.answer = answer


# A longer string is no user's id, but a page or an error.
_MAX_IDENTITY = 1024


def _credentials(found: Any) -> Credentials:
    """Return the credentials for what the app's ``authenticate`` returned.

    Raises RefusedByApp, AuthError, or whatever exception was returned; TypeError and CartowsError for what names no user.
    """
    found = current_object(found)
    credentials = found if isinstance(found, Credentials) else Credentials(found)
    # Only ``Credentials(None)`` itself asks for a client without an identity.
    anonymous = credentials is found and credentials.identity is None
    identity = current_object(credentials.identity)
    if isinstance(identity, Credentials):
        raise TypeError("Credentials within Credentials name no user: return one of the two")
    if isinstance(identity, Exception):
        raise identity
    if isinstance(identity, HTTPStatus):
        raise RefusedByApp((identity.phrase, int(identity)))
    if _is_response(identity):
        raise RefusedByApp(identity)
    if not anonymous:
        if _is_no_user(identity):
            raise AuthError("The app could not identify you: log in, then connect again.")
        known_by = identity_string(identity)
        if len(known_by) > _MAX_IDENTITY or "\n" in known_by:
            raise CartowsError(
                f"@ws.authenticate returned a {type(identity).__name__} whose string has {len(known_by)} characters. That is "
                f"no user's id, which is one line of at most {_MAX_IDENTITY}: to refuse a client return None, or a response "
                "with its status"
            )
    expires_at = credentials.expires_at
    if expires_at is not None and not math.isfinite(expires_at):
        raise CartowsError(f"Credentials(expires_at={expires_at}) cannot be used: it must be Unix time in seconds")
    return credentials._replace(identity=identity)


def _is_response(value: Any) -> bool:
    """Return whether a function answered as a view does, with a response or ``(body, status)``."""
    if isinstance(value, tuple) and not hasattr(value, "_fields"):
        if value and isinstance(value[0], (int, float, uuid.UUID)):
            # No body of a response, but a row of the app's database.
            return False
        second = value[1] if len(value) in (2, 3) else None
        if isinstance(second, str):
            return second[:3].isdecimal()
        is_status = isinstance(second, int) and 100 <= second <= 599
        return is_status or isinstance(second, (Mapping, list, tuple))
    return hasattr(value, "status_code") and hasattr(value, "headers")


def _is_no_user(identity: Any) -> bool:
    # False and empty values too: the one is how the other functions refuse, the others are no user's id.
    if identity is None or identity is False or (isinstance(identity, Sized) and not identity):
        return True
    if isinstance(identity, str):
        return not identity.strip()
    authenticated = getattr(identity, "is_authenticated", True)
    return not (authenticated() if callable(authenticated) else authenticated)


def is_agreement(result: Any) -> bool:
    """Return whether a check agrees. Raises TypeError for what has not been awaited, which decides nothing."""
    result = current_object(result)
    if inspect.isawaitable(result):
        if inspect.iscoroutine(result):
            result.close()
        raise TypeError(
            "a check returned what has not been awaited: write it as an async function itself, not as one that calls it"
        )
    return bool(result) and not _is_refusal(result)


def _is_refusal(result: Any) -> bool:
    """Return whether a check refuses by a value that is true: an exception, a status, a response, or ``(False, reason)``."""
    if isinstance(result, type):
        return issubclass(result, BaseException)
    if isinstance(result, tuple) and result and result[0] is False:
        return True
    return isinstance(result, (BaseException, HTTPStatus)) or _is_response(result)


class Hooks:
    """The functions that were registered with one extension."""

    def __init__(self) -> None:
        self.authenticate: Callable[[Any], Any] | Authenticator | None = None
        self.authorize: Authorize | None = None
        self.messages: dict[str, Callable[..., Any]] = {}
        self.connect: list[Callable[..., Any]] = []
        self.disconnect: list[Callable[..., Any]] = []

    def add_message(self, type: str, function: Callable[..., Any]) -> None:
        """Register the handler of a message type. Raises ValueError for a type that has one."""
        if not isinstance(type, str):
            raise TypeError(f"@ws.on({type!r}): name the type of the messages, e.g. @ws.on('chat.say')")
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
        """Call a function of the app in an app context; an ``async def`` too, where Flask can."""
        with self._app.app_context():
            return self._app.ensure_sync(function)(*arguments)

    def _call_in_request(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a function in the request's own context: another one would hide what a ``before_request`` has put into ``g``."""
        return self._app.ensure_sync(function)(*arguments)

    # Credentials ----------------------------------------------------------------------------------------------------

    @property
    def authenticator(self) -> Authenticator | None:
        """The Authenticator that was registered, or None where it is a plain function or nothing."""
        registered = self.hooks.authenticate
        return registered if isinstance(registered, Authenticator) else None

    def authenticate(self, request: Any) -> Credentials:
        """Return the credentials of the sender of an upgrade request, in whose context this is called.

        Raises AuthError, RefusedByApp, and what the app's function raises or returns as an exception.
        """
        registered = self.hooks.authenticate
        if registered is None:
            return Credentials(None)
        if isinstance(registered, Authenticator):
            registered.check_app(self._app)
            return _credentials(registered.authenticate(request))
        return _credentials(self._call_in_request(registered, request))

    def refresh(self, token: str) -> Credentials:
        """Return the credentials for a connected client's new token. Raises AuthError."""
        if self.authenticator is None:
            raise AuthError("Credentials are not refreshed here: connect again.")
        try:
            return _credentials(self.call(self.authenticator.refresh, token))
        except RefusedByApp:
            raise AuthError("The app refuses them.") from None

    @property
    def recheck_interval(self) -> float | None:
        """The seconds between two calls of ``is_valid`` for one client; None for never."""
        return None if self.authenticator is None else self.authenticator.recheck_interval

    def is_valid(self, credentials: Credentials) -> bool:
        """Return whether a client with these credentials may stay."""
        return self.authenticator is None or is_agreement(self.call(self.authenticator.is_valid, credentials))

    # Rooms ----------------------------------------------------------------------------------------------------------

    def is_allowed(self, credentials: Credentials, identity: Any, key: str | None, value: str | None) -> bool:
        """Return whether a client may subscribe to a room; a key and a value of None stand for everything.

        Decided by the credentials, or else by the app's ``authorize``; without either every client may.
        """
        return self._is_allowed(self.call, credentials, identity, key, value)

    def _is_allowed(
        self, call: Callable[..., Any], credentials: Credentials, identity: Any, key: str | None, value: str | None
    ) -> bool:
        if credentials.allowed_rooms is not None:
            return credentials.allowed_rooms.unfiltered or (key, value) in credentials.allowed_rooms.rooms
        authorize = self.hooks.authorize
        return authorize is None or is_agreement(call(authorize, identity, key, value))

    def first_refused(self, credentials: Credentials, filters: Filters) -> tuple[str | None, str | None] | None:
        """Return the first room of an upgrade request's query that is refused, (None, None) for everything, or None.

        Called in the context of the request. A query without filters asks for everything.
        """
        rooms: list[tuple[str | None, str | None]] = [(key, value) for key, values in filters.items() for value in values]
        # A client with an identity that asks for no room receives nothing that could be refused. One without an identity is
        # asked about all the same: the app may want to keep it out.
        if not rooms and not (filters and credentials.identity is not None):
            rooms.append((None, None))
        for key, value in rooms:
            if not self._is_allowed(self._call_in_request, credentials, credentials.identity, key, value):
                return key, value
        return None

    # Connecting and disconnecting -----------------------------------------------------------------------------------

    @property
    def has_connect(self) -> bool:
        """Whether the app has an ``on_connect``, so that it is asked before a client is registered."""
        return bool(self.hooks.connect)

    def connected(self, client: HookClient) -> int | None:
        """Call the app's ``on_connect`` functions before a client is registered; returns a close code when one refuses it."""
        for function in self.hooks.connect:
            result = self._call_for(client, function)
            if result is False or _is_refusal(result):
                return CloseCode.FORBIDDEN
            if inspect.isawaitable(result):
                self._logger.error("cartows: on_connect returned what has not been awaited, so its client is refused")
                return CloseCode.FORBIDDEN
            if isinstance(result, int) and result is not True:
                return self._close_code(result)
        return None

    def _close_code(self, code: int) -> int:
        try:
            close_frame(code)
        except ValueError as error:
            self._logger.error("cartows: on_connect refused a client with a code that cannot be sent, so 3507: %s", error)
            return CloseCode.FORBIDDEN
        return code

    def disconnected(self, client: HookClient) -> None:
        """Call the app's ``on_disconnect`` functions for a client that has gone."""
        token = RAISES_HUB_CLOSED.set(False)
        try:
            for function in self.hooks.disconnect:
                self._call_for(client, function)
        finally:
            RAISES_HUB_CLOSED.reset(token)

    def _call_for(self, client: HookClient, function: Callable[..., Any]) -> Any:
        try:
            return self.call(function, client)
        except Exception:
            self._logger.exception("cartows: the app's on_connect or on_disconnect failed for client %s", client.id)
            client.send_internal_error()
            return None
