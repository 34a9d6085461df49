"""A place in a process, and how many there are: for all, for one address and for one identity.

Threads: any; everything here is a value.
Locks: none.
Blocks: never.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Slot", "SlotLimits"]


class SlotLimits(NamedTuple):
    """Say how many clients there may be; None for any number."""

    clients: int
    per_address: int | None = None
    per_identity: int | None = None


class Slot(NamedTuple):
    """Say whose a place is."""

    address: str | None = None
    identity: str | None = None

    def who(self) -> list[tuple[str, str]]:
        """Return what the place counts for."""
        both = (("address", self.address), ("identity", self.identity))
        return [(kind, who) for kind, who in both if who is not None]

    def bounded(self, bounds: SlotLimits) -> list[tuple[str, str, int]]:
        """Return what it counts for that is bounded, and how many are allowed of that."""
        most = {"address": bounds.per_address, "identity": bounds.per_identity}
        return [(kind, who, limit) for kind, who in self.who() if (limit := most[kind]) is not None]
