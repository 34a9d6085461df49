"""The clients of this process, by id and by identity; what is done to them by these; and the counters.

**Threads**: any. The hub thread alone enters clients; it and a client's own reader thread remove them.
**Locks**: ``_lock``, the registry lock, guards all of it. It is held to copy or change, never to send, to call the app, or
while a client's lock is taken.
**Blocks**: ``await_empty`` until its deadline; ``reauthorize`` for as long as the app's answers take.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from typing import Any

from ..client.client import Client
from ..identity import identity_string
from ..message import Message
from ..websocket.close_codes import APP_CODES_START, CloseCode, sendable
from .revocations import Revocations

__all__ = ["Registry"]


class Registry:
    """The clients of one hub, from their registration to the end of their descriptor."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        #: The clients that events are sent to. A dict for its order.
        self._clients: dict[Client, None] = {}
        #: Clients from their registration to the end of their descriptor.
        self._present: set[Client] = set()
        self._departed = threading.Condition(self._lock)
        self._by_id: dict[str, Client] = {}
        #: By identity keys, not identities: hashing and comparing those would be the app's code, which might fail here.
        self._by_identity: dict[str, dict[Client, None]] = {}
        self._counters: Counter[str] = Counter()
        self.revocations = Revocations()

    # Registration -----------------------------------------------------------------------------------------------------

    def arrive(self, client: Client) -> bool:
        """Count a client as present; False when its descriptor is closed already."""
        with self._lock:
            if client.gone:
                return False
            self._present.add(client)
            self._by_id[client.id] = client
            return True

    def enter(self, client: Client) -> None:
        """Add a client to those that events are sent to. Hub thread."""
        with self._lock:
            self._clients[client] = None
            self._counters["registered"] += 1

    def remove(self, client: Client) -> None:
        """Remove a client from those that events are sent to; nothing happens when it is not among them."""
        with self._lock:
            if client not in self._clients:
                return
            del self._clients[client]
            self._forget_names_locked(client)

    def identify(self, client: Client, identity_key: str | None) -> None:
        """Change a client's identity key; it is found by that from then on, even if it has not been entered yet."""
        with self._lock:
            self._forget_identity_locked(client)
            client.identity_key = identity_key
            if identity_key is not None and not client.gone:
                self._by_identity.setdefault(identity_key, {})[client] = None

    def _forget_identity_locked(self, client: Client) -> None:
        found = self._by_identity.get(client.identity_key) if client.identity_key is not None else None
        if found is not None:
            found.pop(client, None)
            if not found:
                del self._by_identity[str(client.identity_key)]

    def _forget_names_locked(self, client: Client) -> None:
        if self._by_id.get(client.id) is client:
            del self._by_id[client.id]
        self._forget_identity_locked(client)

    def discard(self, client: Client) -> None:
        """Forget a client that was never served."""
        with self._lock:
            client.gone = True
            self._forget_identity_locked(client)

    def gone(self, client: Client) -> None:
        """Forget a client whose descriptor is closed, and count its close code. Its reader thread."""
        with self._lock:
            client.gone = True
            self._present.discard(client)
            self._forget_names_locked(client)
            self._departed.notify_all()
            code = client.connection.close_code or CloseCode.ABNORMAL
            # An app's codes, and a peer's, may be any.
            self._counters[f"closed_{int(code)}" if code < APP_CODES_START else "closed_by_app"] += 1

    def await_empty(self, deadline: float) -> None:
        """Wait until no client is present, or for the monotonic deadline."""
        with self._lock:
            while self._present and deadline > time.monotonic():
                self._departed.wait(deadline - time.monotonic())

    def clear(self) -> None:
        """Forget every client."""
        with self._lock:
            self._clients.clear()
            self._by_id.clear()
            self._by_identity.clear()

    # Queries ----------------------------------------------------------------------------------------------------------

    def count_clients(self) -> int:
        """Return how many clients events are sent to."""
        with self._lock:
            return len(self._clients)

    def clients(self) -> list[Client]:
        """Return the clients that events are sent to: a snapshot."""
        with self._lock:
            return list(self._clients)

    def present(self) -> list[Client]:
        """Return the clients whose descriptor is open, including those that are being closed: a snapshot."""
        with self._lock:
            return list(self._present)

    def find_id(self, id: str) -> list[Client]:
        """Return the client with that id, even if it has not been entered yet; an empty list when there is none."""
        with self._lock:
            return [self._by_id[id]] if id in self._by_id else []

    def find_identity(self, identity_key: str) -> list[Client]:
        """Return the clients of an identity."""
        with self._lock:
            return list(self._by_identity.get(identity_key, ()))

    def count(self, name: str) -> None:
        """Increment a counter."""
        with self._lock:
            self._counters[name] += 1

    def counter(self, name: str) -> int:
        """Return the value of a counter."""
        with self._lock:
            return self._counters[name]

    def stats(self) -> dict[str, Any]:
        """Return how many clients events are sent to, and the counters."""
        with self._lock:
            return {"clients": len(self._clients), **self._counters}

    # By id and by identity --------------------------------------------------------------------------------------------

    def send_to(self, message: str | bytes | Message, *, identity: Any = None, client_id: str | None = None) -> int:
        """Send to the clients of an identity, or to the one with an id; see ``Hub.send_to``."""
        if (identity is None) == (client_id is None):
            raise TypeError("hub.send_to() takes either identity= or client_id=")
        clients = self.find_id(client_id) if client_id is not None else self.find_identity(identity_string(identity))
        return sum([client.send(message) for client in clients])

    def disconnect(self, code: int, reason: str, *, identity: Any = None, client_id: str | None = None) -> int:
        """Close the clients of an identity, or the one with an id; see ``Hub.disconnect``."""
        if (identity is None) == (client_id is None):
            raise TypeError("hub.disconnect() takes either identity= or client_id=")
        if not sendable(code):
            raise ValueError(f"code={code} cannot be sent in a close frame: an app may use 4000 to 4999, or the default, 3503")
        if client_id is not None:
            clients = self.find_id(client_id)
        else:
            # First for clients that are connecting and cannot be found yet.
            self.revocations.add(identity_string(identity), disconnects=True)
            clients = self.find_identity(identity_string(identity))
        return sum([client.connection.disconnect(code, reason) for client in clients])

    def reauthorize(self, identity: Any) -> int:
        """Authorize the subscriptions of an identity's clients again; see ``Hub.reauthorize``."""
        self.revocations.add(identity_string(identity), disconnects=False)
        lost, failed = 0, None
        for client in self.find_identity(identity_string(identity)):
            try:
                lost += client.authorization.reauthorize()
            except Exception as error:
                failed = failed or error
        if failed is not None:
            raise failed
        return lost
