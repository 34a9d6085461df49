"""The client registry: who is connected to this process, by id and by identity, and the counters.

Threads: any; the hub thread alone enters clients, it and a client's own reader thread remove them.
Locks: ``_lock``, the registry lock, guards all of it. It is held to copy or change, never to send, to call the app, or while a
    client's lock is taken.
Blocks: ``await_empty`` until its deadline; nothing else.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from typing import Any

from ..client.client import Client
from ..websocket.close_codes import APP_CODES_START, CloseCode
from .capacity import Slot, SlotLimits
from .revocations import Revocations

__all__ = ["Registry"]


class Registry:
    """Know the clients of one hub, from the place taken for a socket to the end of its descriptor."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        #: The clients that events are sent to. A dict for its order.
        self._clients: dict[Client, None] = {}
        #: Clients from their registration to the end of their descriptor.
        self._present: set[Client] = set()
        self._departed = threading.Condition(self._lock)
        self._by_id: dict[str, Client] = {}
        #: By identities as text: what they are hashed and compared by is not the app's code, which might fail here.
        self._by_identity: dict[str, dict[Client, None]] = {}
        #: Places taken: sockets between their admission and the end of their descriptor; of them, by address and by identity.
        self._slots = 0
        self._slots_by: Counter[tuple[str, str]] = Counter()
        self._counters: Counter[str] = Counter()
        self.revocations = Revocations()

    # Places -------------------------------------------------------------------------------------------------------

    def take_slot(self, slot: Slot, bounds: SlotLimits) -> str | None:
        """Take a place for a socket that is about to become a client; ``gone`` gives it back.

        Returns which bound forbids that: "clients", "address" or "identity"; None when it is taken.
        """
        with self._lock:
            full = self._full_locked(slot, bounds)
            if full is None:
                self._slots += 1
                self._slots_by.update(slot.who())
            return full

    def full(self, slot: Slot, bounds: SlotLimits) -> str | None:
        """Return which bound forbids to take a place now, None when there is one."""
        with self._lock:
            return self._full_locked(slot, bounds)

    def _full_locked(self, slot: Slot, bounds: SlotLimits) -> str | None:
        if self._slots >= bounds.clients:
            return "clients"
        return next((kind for kind, who, most in slot.bounded(bounds) if self._slots_by[kind, who] >= most), None)

    def release_slot(self, slot: Slot, client: Client | None = None) -> None:
        """Give back the place of a socket that did not become a client, or of a client that could not be served."""
        with self._lock:
            self._release_locked(slot)
            if client is not None:
                client.gone = True
                self._forget_identity_locked(client)

    def _release_locked(self, slot: Slot) -> None:
        self._slots -= 1
        for who in slot.who():
            self._slots_by[who] -= 1
            if not self._slots_by[who]:
                del self._slots_by[who]

    # Coming and going ---------------------------------------------------------------------------------------------

    def arrive(self, client: Client) -> bool:
        """Count a client as present; False when its reader has seen the peer go already."""
        with self._lock:
            if client.gone:
                return False
            self._present.add(client)
            self._by_id[client.id] = client
            return True

    def enter(self, client: Client) -> None:
        """Take a client in. Hub thread."""
        with self._lock:
            self._clients[client] = None
            self._counters["registered"] += 1

    def remove(self, client: Client) -> None:
        """Take a client out; nothing happens when it is not in."""
        with self._lock:
            if client not in self._clients:
                return
            del self._clients[client]
            self._forget_names_locked(client)

    def identify(self, client: Client, identity_key: str | None) -> None:
        """Give a client another identity, as text; from then on it is found by that, though it may not be in yet."""
        with self._lock:
            self._forget_identity_locked(client)
            client.identity_key = identity_key
            if identity_key is not None and not client.gone:
                self._by_identity.setdefault(identity_key, {})[client] = None

    def _forget_identity_locked(self, client: Client) -> None:
        known = self._by_identity.get(client.identity_key) if client.identity_key is not None else None
        if known is not None:
            known.pop(client, None)
            if not known:
                del self._by_identity[str(client.identity_key)]

    def _forget_names_locked(self, client: Client) -> None:
        if self._by_id.get(client.id) is client:
            del self._by_id[client.id]
        self._forget_identity_locked(client)

    def gone(self, client: Client) -> None:
        """Forget a client whose descriptor is closed. Its reader thread."""
        with self._lock:
            client.gone = True
            if client.slot is not None:
                self._release_locked(client.slot)
            self._present.discard(client)
            self._forget_names_locked(client)
            self._departed.notify_all()
            code = client.connection.close_code or CloseCode.ABNORMAL
            # An app's codes, and a peer's, may be any.
            self._counters[f"closed_{int(code)}" if code < APP_CODES_START else "closed_by_app"] += 1

    def await_empty(self, deadline: float) -> None:
        """Wait until nobody is present, or for the monotonic deadline."""
        with self._lock:
            while self._present and deadline > time.monotonic():
                self._departed.wait(deadline - time.monotonic())

    def clear(self) -> None:
        """Forget every client."""
        with self._lock:
            self._clients.clear()
            self._by_id.clear()
            self._by_identity.clear()

    # Asking -------------------------------------------------------------------------------------------------------

    def count_clients(self) -> int:
        """Return how many clients are in."""
        with self._lock:
            return len(self._clients)

    def clients(self) -> list[Client]:
        """Return the clients that are in: a snapshot."""
        with self._lock:
            return list(self._clients)

    def present(self) -> list[Client]:
        """Return the clients whose descriptor is open, those that are being closed among them: a snapshot."""
        with self._lock:
            return list(self._present)

    def find_id(self, id: str) -> list[Client]:
        """Return the client with that id, one that is on its way in too, or nobody."""
        with self._lock:
            return [self._by_id[id]] if id in self._by_id else []

    def find_identity(self, identity: str) -> list[Client]:
        """Return the clients of that identity, as text."""
        with self._lock:
            return list(self._by_identity.get(identity, ()))

    def count(self, name: str) -> None:
        """Move a counter."""
        with self._lock:
            self._counters[name] += 1

    def stats(self) -> dict[str, Any]:
        """Return how many clients are in and places taken, and the counters."""
        with self._lock:
            return {"clients": len(self._clients), "slots": self._slots, **self._counters}
