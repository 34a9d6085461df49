"""One client's credentials, and what they allow at this moment.

**Threads**: ``check_token`` and ``renew`` on the reader thread; everything else on any thread.
**Blocks**: ``is_valid``, ``is_allowed``, ``check_token``, ``renew`` and ``reauthorize`` for as long as the app's functions do.
"""

from __future__ import annotations

import time
from typing import Any, Protocol

from ..auth.base import Credentials
from ..errors import AuthError
from ..hooks import AppHooks
from ..identity import identity_string
from ..rooms import Room
from ..websocket.close_codes import CloseCode
from .connection import Connection
from .subscriptions import ClientFilters, SubscriptionRequest

__all__ = ["ANONYMOUS", "Authorization", "AuthorizationHub", "AuthorizedClient"]

#: The credentials of a client whose app has no authentication.
ANONYMOUS = Credentials(None)


class AuthorizationHub(Protocol):
    """What authorization needs of the hub. Every method may be called on any thread and never waits."""

    def revocation_mark(self) -> int:
        """Return the number of the last revocation, to be compared later by ``revoked_since``."""

    def revoked_since(self, mark: int, identity_key: str | None) -> bool:
        """Return whether an identity was disconnected or is to be authorized again since that mark."""

    def recheck_expiry(self, client: Any) -> None:
        """Schedule the expiry of a client's credentials anew."""


class AuthorizedClient(Protocol):
    """What authorization needs of the client."""

    connection: Connection
    #: The identity as a string; under the registry lock.
    identity_key: str | None
    #: The app's functions; None where it has none.
    hooks: AppHooks | None

    @property
    def identity(self) -> Any:
        """The identity: what the app made of the credentials."""


class Authorization:
    """The credentials of one client: their expiry, their renewal, and the rooms that they and the app allow."""

    __slots__ = ("_client", "_filters", "_hub", "credentials")

    def __init__(self, client: AuthorizedClient, hub: AuthorizationHub, filters: ClientFilters) -> None:
        self._client = client
        self._hub = hub
        self._filters = filters
        #: Set before the reader thread starts, then replaced as a whole by that thread.
        self.credentials = ANONYMOUS

    # Expiry -------------------------------------------------------------------------------------------------------

    def expires_in(self) -> float | None:
        """Return in how many seconds the credentials expire; None for never."""
        at = self.credentials.expires_at
        return None if at is None else at - time.time()

    def check_expiry(self) -> float | None:
        """Close the connection if the credentials have expired; return in how many seconds they expire, None for never."""
        left = self.expires_in()
        if left is not None and left <= 0:
            self.expire("credentials expired")
        return left

    def expire(self, reason: str) -> None:
        """Close the connection with 3005: the client may reconnect with new credentials."""
        self._client.connection.disconnect(CloseCode.EXPIRED, reason)

    # Renewal ------------------------------------------------------------------------------------------------------

    def check_token(self, token: str) -> Credentials:
        """Return the new credentials in a token of the same user. Raises AuthError for any other token."""
        hooks = self._client.hooks
        if hooks is None:
            raise AuthError("Credentials are not refreshed here: connect again.")
        fresh = hooks.refresh(token)
        if fresh.identity is None or identity_string(fresh.identity) != self._client.identity_key:
            raise AuthError("They are not this user's.")
        return fresh

    def renew(self, credentials: Credentials) -> float | None:
        """Hold new credentials of the same user, and authorize the rooms again if they allow other ones.

        Returns in how many seconds they expire; None for never.
        """
        changed = credentials.allowed_rooms != self.credentials.allowed_rooms
        self.credentials = credentials
        self._hub.recheck_expiry(self._client)
        left = self.expires_in()
        if changed:
            self.reauthorize()
        return left

    def is_valid(self) -> bool:
        """Ask the app whether the client may stay connected."""
        hooks = self._client.hooks
        return hooks is None or hooks.is_valid(self.credentials)

    # Rooms --------------------------------------------------------------------------------------------------------

    def is_allowed(self, key: str | None, value: str | None) -> bool:
        """Ask the credentials, or else the app, about one room; no key and no value stand for all events."""
        hooks = self._client.hooks
        return hooks is None or hooks.is_allowed(self.credentials, self._client.identity, key, value)

    def revocation_mark(self) -> int:
        """Return the number of the last revocation in the hub. Take it before asking the app, for ``revoked_since``."""
        return self._hub.revocation_mark()

    def revoked_since(self, mark: int) -> bool:
        """Return whether answers of the app about this client that were given after the mark may be out of date."""
        return self._hub.revoked_since(mark, self._client.identity_key)

    def reauthorize(self) -> bool:
        """Ask again about everything that the client is subscribed to, and remove what is refused.

        Returns whether anything was refused. A check that raises counts as a refusal; the first such exception is raised
        once everything has been asked about.
        """
        if self._client.hooks is None:
            return False
        # A subscription under way either stands in the snapshot, or will see the revocation and ask again.
        subscriptions = self._filters.snapshot()
        failed: list[Exception] = []

        def allowed(key: str | None, value: str | None) -> bool:
            try:
                return self.is_allowed(key, value)
            except Exception as error:
                failed.append(error)
                return False

        if subscriptions.unfiltered:
            refused = not allowed(None, None)
            if refused:
                self._client.connection.disconnect(CloseCode.FORBIDDEN, "may no longer receive all events")
        else:
            lost: list[Room] = [room for room in sorted(subscriptions.rooms) if not allowed(*room)]
            refused = bool(lost)
            if lost:
                self._filters.leave(SubscriptionRequest(tuple(lost)), revoked=True)
        if failed:
            raise failed[0]
        return refused
