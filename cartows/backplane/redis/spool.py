"""The events of a process that are not known to be stored: in order, and within bounds.

**Locks**: none of its own; the event writer's is held throughout.
"""

from __future__ import annotations

import threading
from collections import deque

from ..base import OutgoingEvent
from .echoes import Echoes

__all__ = ["PendingEvent", "Spool"]

# The bounds of a batch: large enough to catch up quickly, small enough to arrive well within the timeout.
_BATCH_EVENTS = 64
_BATCH_BYTES = 256 * 1024


class PendingEvent:
    """One event that is not known to be stored."""

    __slots__ = ("done", "event", "id", "is_read", "seq")

    def __init__(self, seq: int, event: OutgoingEvent) -> None:
        self.seq = seq
        self.event = event
        #: The reader has reached it: it is stored, although the answer that confirms it has not arrived, or never will.
        self.is_read = False
        #: The result for the publisher: the id, or None while it is spooled. ``done`` is set after it. It is None where no
        #: publisher waits: a spool of thousands must not hold as many ``threading.Event``.
        self.id: str | None = None
        self.done: threading.Event | None = None

    def release(self) -> None:
        """Wake the publisher that waits for it."""
        if self.done is not None:
            self.done.set()
            self.done = None


class Spool:
    """The queue of pending events, the oldest first, and its bounds."""

    def __init__(self, max_events: int, max_bytes: int) -> None:
        self.max_events = max_events
        self.max_bytes = max_bytes
        #: The sequence number of the last event that was accepted.
        self.last_seq = 0
        self._queue: deque[PendingEvent] = deque()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._queue)

    def why_full(self, size: int, echoes: Echoes, waiting_for: str) -> str | None:
        """Return why an event of ``size`` bytes has no room, or None where it has.

        The bounds also cover the events that are stored and not yet read back. An event larger than ``max_bytes`` is accepted
        when nothing else waits.
        """
        events, held = len(self._queue) + len(echoes), self._bytes + echoes.bytes
        if events < self.max_events and (held + size <= self.max_bytes or not events):
            return None
        return (
            f"{events} events of {held} bytes wait in this process {waiting_for}, and no more than "
            f"CARTOWS_SPOOL_SIZE={self.max_events} of CARTOWS_SPOOL_BYTES={self.max_bytes} may"
        )

    def append(self, event: OutgoingEvent) -> PendingEvent:
        """Queue an event under the next sequence number."""
        self.last_seq += 1
        pending = PendingEvent(self.last_seq, event)
        self._queue.append(pending)
        self._bytes += len(event.body)
        return pending

    def batch(self) -> list[PendingEvent]:
        """Return the oldest events, as many as one call to the broker may carry; they stay queued."""
        batch: list[PendingEvent] = []
        size = 0
        for pending in self._queue:
            size += len(pending.event.body)
            if batch and (len(batch) == _BATCH_EVENTS or size > _BATCH_BYTES):
                break
            batch.append(pending)
        return batch

    def pop(self) -> PendingEvent:
        """Remove the oldest event, which is stored now, and return it."""
        pending = self._queue.popleft()
        self._bytes -= len(pending.event.body)
        return pending

    def mark_read(self, seq: int) -> None:
        """Record that the reader has reached an event; ignore one that is not queued."""
        if self._queue:
            index = seq - self._queue[0].seq
            if 0 <= index < len(self._queue):
                self._queue[index].is_read = True

    def unread(self) -> list[PendingEvent]:
        """Return the events that the reader has not reached."""
        return [pending for pending in self._queue if not pending.is_read]

    def release_all(self) -> None:
        """Wake every publisher that waits for an event: they are spooled."""
        for pending in self._queue:
            pending.release()
