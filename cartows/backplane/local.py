"""The way between processes where there is one process: straight to its own hub.

Threads: any.
Locks: none of its own.
Blocks: ``publish`` for room, until its timeout.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

from ..presence.presence import PresenceEntry
from .base import Outcome, OutgoingEvent, Sink, Snapshot

__all__ = ["LocalBackplane"]


class LocalBackplane:
    """Hand every event to the hub of this process: "queued" is all that can become of it."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._epoch = secrets.token_hex(4)

    def prepare(self) -> Snapshot:
        """See Backplane.prepare."""
        return Snapshot(self._epoch, 0)

    def follow(self) -> None:
        """See Backplane.follow."""

    def publish(self, event: OutgoingEvent, timeout: float) -> Outcome:
        """See Backplane.publish."""
        return self._sink.put(event, self._epoch, timeout)

    def may_come(self, number: int) -> bool:
        """See Backplane.may_come."""
        return False

    def announce(self, changes: Mapping[str, PresenceEntry | None]) -> None:
        """See Backplane.announce."""

    def disconnect(self, identity: str, code: int, reason: str) -> None:
        """See Backplane.disconnect."""

    def reauthorize(self, identity: str) -> None:
        """See Backplane.reauthorize."""

    def stats(self) -> dict[str, Any]:
        """See Backplane.stats."""
        return {}

    def stop(self, timeout: float) -> None:
        """See Backplane.stop."""
