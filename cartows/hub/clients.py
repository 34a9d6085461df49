"""What may be asked of a hub about its clients, whatever process it runs in.

Threads: any.
Locks: none of its own: the registry has one, each connection has one.
Blocks: never, save that ``reauthorize`` asks the app.

Go counterpart: ``RegisterClient``, ``UnregisterClient``, ``ClientCount`` and ``GetClients`` of ``hub.go``.
"""

from __future__ import annotations

from typing import Any

from ..client.client import Client
from ..message import Message
from ..rooms import room_value
from ..websocket.close_codes import CloseCode, sendable
from .registry import Registry

__all__ = ["Clients"]


class Clients:
    """Look after the clients of one hub."""

    registry: Registry

    def client_count(self) -> int:
        """Return how many clients are registered in this process."""
        return self.registry.count_clients()

    def get_clients(self) -> list[Client]:
        """Return the clients registered in this process: a snapshot."""
        return self.registry.clients()

    def send_to(self, message: str | bytes | Message, *, identity: Any = None, client_id: str | None = None) -> int:
        """Send to every client of an identity, or to the one with an id; no event: it has no id and is not replayed.

        Identities compare as text. Any thread; never waits.

        Args:
            message: Text for str, a binary message for bytes, JSON for a Message.
            identity: Whose clients, as ``authenticate`` returned it.
            client_id: Which client, by ``client.id``.

        Returns:
            To how many clients it was handed.

        Raises:
            MessageError: It cannot be serialised, or is larger than a send queue.
            TypeError: Not exactly one of ``identity`` and ``client_id`` is given.
        """
        if (identity is None) == (client_id is None):
            raise TypeError("hub.send_to() takes either identity= or client_id=")
        if client_id is not None:
            clients = self.registry.find_id(client_id)
        else:
            clients = self.registry.find_identity(room_value(identity))
        return sum([client.send(message) for client in clients])

    def disconnect(
        self,
        *,
        identity: Any = None,
        client_id: str | None = None,
        code: int = CloseCode.DISCONNECTED,
        reason: str = "disconnected by the app",
    ) -> int:
        """Close every client of an identity, or the one with an id; returns how many that were.

        The client is advised first: codes of 3500 to 3999 and from 4500 on say that it is not to come back. Any thread; never
        waits. Raises ValueError for what is no close code, TypeError unless one of ``identity`` and ``client_id`` is given.
        """
        if (identity is None) == (client_id is None):
            raise TypeError("hub.disconnect() takes either identity= or client_id=")
        if not sendable(code):
            raise ValueError(f"code={code} can be in no close frame: an app has 4000 to 4999, and 3503 is final")
        if client_id is not None:
            clients = self.registry.find_id(client_id)
        else:
            # First for those who are on their way in and cannot be found yet.
            self.registry.revocations.add(room_value(identity), puts_out=True)
            clients = self.registry.find_identity(room_value(identity))
        return sum([client.connection.disconnect(code, reason) for client in clients])

    def reauthorize(self, identity: Any) -> int:
        """Ask ``@ws.authorize`` again for all that the clients of an identity hear; returns how many lost something.

        A room that is refused is taken away, and the client told by ``unsubscribed``; one that may not hear everything any
        more is closed with 3507. Runs ``authorize`` on the caller's thread, in an app context of its own. Where that raises it
        is a no, and it is raised here once everything has been asked.
        """
        self.registry.revocations.add(room_value(identity), puts_out=False)
        lost, failed = 0, None
        for client in self.registry.find_identity(room_value(identity)):
            try:
                lost += client.authorization.reauthorize()
            except Exception as error:
                failed = failed or error
        if failed is not None:
            raise failed
        return lost
