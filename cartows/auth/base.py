"""Who a client is and for how long: what an authenticator makes of a request.

Threads: any; credentials are values, and an Authenticator must bear being called by several threads at once.
Locks: none.
Blocks: as long as the authenticator does.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

from ..errors import AuthError
from ..rooms import Subscriptions

__all__ = ["Authenticator", "Credentials", "Disconnector"]


#: What a client offers that sends a token as a subprotocol, and is answered.
SUBPROTOCOL = "cartows"


class Credentials(NamedTuple):
    """Say who somebody is; an identity of None lets in somebody whom nobody knows.

    ``expires_at`` is Unix time in seconds, None for never. ``allowed_rooms`` stands in for ``@ws.authorize``: the rooms
    that the client may subscribe to, and whether it may receive everything; None leaves that to ``authorize``.
    ``subprotocol`` is named in the answer to the handshake, where the client offered it.
    """

    identity: Any
    expires_at: float | None = None
    allowed_rooms: Subscriptions | None = None
    subprotocol: str | None = None


class Disconnector(Protocol):
    """What an authenticator needs of a hub."""

    def disconnect(self, *, identity: Any, code: int, reason: str) -> int:
        """Close every client of an identity; returns how many that were."""


class Authenticator:
    """Be the base of what ``ws.authenticate`` takes beside a plain function: ``ws.authenticate(JWTAuth(...))``."""

    #: How often, in seconds, ``is_valid`` is asked of each connected client; None for never.
    recheck_interval: float | None = None
    #: Parameters of the query that carry a secret: what stands there is hidden from the server's access log.
    secret_parameters: tuple[str, ...] = ()

    def authenticate(self, request: Any) -> Credentials:
        """Return who sends an upgrade request, or asks why one was refused. Raises AuthError: 401 with its text.

        On the request's thread, in its context.
        """
        raise NotImplementedError

    def refresh(self, token: str) -> Credentials:
        """Return what a new token of a connected client says. On its reader thread, in an app context. Raises AuthError."""
        raise AuthError("These credentials cannot be refreshed: connect again.")

    def is_valid(self, credentials: Credentials) -> bool:
        """Return whether a connected client may stay. On a thread of the hub's, in an app context."""
        return True

    def init_hub(self, hub: Disconnector) -> None:
        """Be told of a hub whose clients this authenticates."""
