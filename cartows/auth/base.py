"""Who a client is and for how long: what an authenticator makes of a request.

**Threads**: any; credentials are values, and several threads may call an Authenticator at once.
**Blocks**: as long as the authenticator does.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

from ..errors import AuthError
from ..rooms import Subscriptions

__all__ = ["SUBPROTOCOL", "Authenticator", "Credentials", "Disconnector"]


#: The subprotocol that a client offers beside its token, and that is named in the answer.
SUBPROTOCOL = "cartows"


class Credentials(NamedTuple):
    """Who a client is, until when, and which rooms it may subscribe to.

    Args:
        identity: Becomes ``client.identity``; identities are compared by their strings, a user object by its ``get_id()``.
            None itself admits a client without an identity.
        expires_at: When the client is disconnected unless it has refreshed its credentials, as Unix time in seconds; None for
            never.
        allowed_rooms: The rooms that the client may subscribe to, and whether it may receive everything; decides in place of
            ``@ws.authorize``. None leaves that to ``authorize``.
        subprotocol: Named in the answer to the handshake, where the client offered it.
    """

    identity: Any
    expires_at: float | None = None
    allowed_rooms: Subscriptions | None = None
    subprotocol: str | None = None


class Disconnector(Protocol):
    """What an authenticator needs of a hub."""

    def disconnect(self, *, identity: Any, code: int, reason: str) -> int:
        """Close every client of an identity.

        Args:
            identity: The identity, compared by its string, or a user object.
            code: The close code.
            reason: The close reason, at most 123 bytes.

        Returns:
            The number of clients.
        """


class Authenticator:
    """The base of what ``ws.authenticate`` takes beside a plain function.

    A subclass overrides ``authenticate``, and what else it needs. Several threads may call it at once.
    """

    #: The seconds between two calls of ``is_valid`` for one connected client; None for never.
    recheck_interval: float | None = None
    #: The parameters of the query that carry a secret; their values are hidden from the server's access log.
    secret_parameters: tuple[str, ...] = ()

    def authenticate(self, request: Any) -> Credentials:
        """Return the credentials of the sender of an upgrade request.

        Runs on the request's thread and in its context. Also called for a page that asks by HTTP why it was refused, so it
        must not consume anything.

        Args:
            request: The Flask request.

        Raises:
            AuthError: The client may not connect; it is answered with 401 and this text.
        """
        raise NotImplementedError

    def refresh(self, token: str) -> Credentials:
        """Return the credentials for the new token that a connected client sent with ``auth.refresh``.

        Runs on the client's reader thread in an app context. By default nothing can be refreshed.

        Args:
            token: The token, as the client sent it.

        Raises:
            AuthError: The token is refused; the client is sent this text and keeps its old credentials.
        """
        raise AuthError("These credentials cannot be refreshed: connect again.")

    def is_valid(self, credentials: Credentials) -> bool:
        """Return whether a connected client may stay; False disconnects it with close code 3005.

        Called every ``recheck_interval`` seconds, on the hub's rechecker thread in an app context. An exception is logged, and
        the client stays. By default every client may stay.

        Args:
            credentials: What ``authenticate`` or ``refresh`` returned last for the client.
        """
        return True

    def check_app(self, app: Any) -> None:
        """Check what an app has beside this, and log what does not go together; by default nothing is checked.

        Called on the thread that makes the app, once both are known, and before each ``authenticate``, since an extension may
        have been added to the app later.

        Args:
            app: The Flask app whose clients this authenticates.
        """

    def init_hub(self, hub: Disconnector) -> None:
        """Prepare for a hub whose clients this authenticates; called once by each ``ws.authenticate``.

        Runs on the thread that makes the app. By default nothing is done. Keep only a weak reference to the hub.

        Args:
            hub: The hub, of which an authenticator uses ``disconnect``.
        """
