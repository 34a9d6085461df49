"""The backplane of a single process: events go straight to its own hub.

**Blocks**: ``publish`` waits for room, until its timeout.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

from ..presence.presence import PresenceEntry
from .base import BackplaneResult, OutgoingEvent, Sink, Snapshot

__all__ = ["LocalBackplane"]


class LocalBackplane:
    """The backplane of a hub without a broker: an accepted event is always "queued"."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._epoch = secrets.token_hex(4)

    def prepare(self) -> Snapshot:
        """See Backplane.prepare."""
        return Snapshot(self._epoch, 0)

    def follow(self) -> None:
        """See Backplane.follow."""

    def publish(self, event: OutgoingEvent, timeout: float) -> BackplaneResult:
        """See Backplane.publish."""
        return self._sink.put(event, self._epoch, timeout)

    def may_exist(self, number: int) -> bool:
        """See Backplane.may_exist."""
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
