"""The slots of a process: how many clients it serves, in all, for one address and for one identity; and its writer threads.

**Threads**: any.
**Locks**: ``_lock`` guards the counts. It is a leaf: no other lock is taken while it is held.
"""

from __future__ import annotations

import threading
from collections import Counter
from typing import NamedTuple

__all__ = ["Capacity", "Slot", "SlotLimits"]


class SlotLimits(NamedTuple):
    """How many slots there are; None for any number."""

    clients: int
    per_address: int | None = None
    per_identity: int | None = None
    #: The threads for clients: one for each slot, the others for writers.
    threads: int | None = None


class Slot(NamedTuple):
    """One slot, by the address and the identity that it is taken for."""

    address: str | None = None
    identity: str | None = None

    def counts_for(self) -> list[tuple[str, str]]:
        """Return what the slot counts for besides the process."""
        both = (("address", self.address), ("identity", self.identity))
        return [(kind, name) for kind, name in both if name is not None]

    def limited(self, limits: SlotLimits) -> list[tuple[str, str, int]]:
        """Return what it counts for that has a limit, and the limit."""
        by_kind = {"address": limits.per_address, "identity": limits.per_identity}
        return [(kind, name, limit) for kind, name in self.counts_for() if (limit := by_kind[kind]) is not None]


class Capacity:
    """The slots taken: one for each socket from its admission to the end of its descriptor."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._taken = 0
        self._writers = 0
        #: The threads for clients, by the limits of the last admission; None for any number.
        self._threads: int | None = None
        self._taken_by: Counter[tuple[str, str]] = Counter()

    @property
    def taken(self) -> int:
        """The number of slots taken."""
        return self._taken

    def take(self, slot: Slot, limits: SlotLimits) -> str | None:
        """Take a slot, to be released later; return the limit that forbids it, as ``check`` does, or None."""
        with self._lock:
            self._threads = limits.threads
            full = self._check_locked(slot, limits)
            if full is None:
                self._taken += 1
                self._taken_by.update(slot.counts_for())
            return full

    def check(self, slot: Slot, limits: SlotLimits) -> str | None:
        """Return the limit that forbids to take a slot now: "clients", "address" or "identity"; None when it is free."""
        with self._lock:
            return self._check_locked(slot, limits)

    def _check_locked(self, slot: Slot, limits: SlotLimits) -> str | None:
        if self._taken >= limits.clients:
            return "clients"
        return next((kind for kind, name, limit in slot.limited(limits) if self._taken_by[kind, name] >= limit), None)

    def release(self, slot: Slot) -> None:
        """Give a slot back."""
        with self._lock:
            self._taken -= 1
            for key in slot.counts_for():
                self._taken_by[key] -= 1
                if not self._taken_by[key]:
                    del self._taken_by[key]

    def take_writer(self) -> bool:
        """Return whether a writer thread may be started; it is to be released when it has ended."""
        with self._lock:
            if self._threads is not None and self._taken + self._writers >= self._threads:
                return False
            self._writers += 1
            return True

    def release_writer(self) -> None:
        """Give a writer thread back."""
        with self._lock:
            self._writers -= 1
