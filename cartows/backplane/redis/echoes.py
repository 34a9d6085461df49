"""Which of this process's own events are new to its clients when they are read back from the broker.

**Locks**: none of its own; the event writer's is held throughout.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import NamedTuple

from ..base import OutgoingEvent, Snapshot

__all__ = ["Echoes"]

# Above every sequence number.
_OPEN = 2**63


class _Unread(NamedTuple):
    epoch: str
    number: int
    event: OutgoingEvent


class Echoes:
    """The process's events that are stored and not yet read back, and those that its clients received before that."""

    def __init__(self) -> None:
        #: Stored events that were neither read back nor put to local clients, by sequence number. Empty during an outage, and
        #: without a sink.
        self._unread: dict[int, _Unread] = {}
        #: The size of those.
        self.bytes = 0
        #: Ranges of sequence numbers whose events were put to local clients, until they are read back. The last range is open
        #: during an outage.
        self._delivered: deque[list[int]] = deque()
        #: The number that the reader has reached.
        self.read_to = 0

    def __len__(self) -> int:
        return len(self._unread)

    def stored(self, seq: int, epoch: str, number: int, event: OutgoingEvent) -> None:
        """Record an event that the reader has yet to reach; ignore one that it has passed."""
        if number > self.read_to:
            self._unread[seq] = _Unread(epoch, number, event)
            self.bytes += len(event.body)

    def read_back(self, seq: int) -> bool:
        """Record that the reader has reached an event; return whether local clients have received it already."""
        unread = self._unread.pop(seq, None)
        if unread is not None:
            self.bytes -= len(unread.event.body)
        while self._delivered and self._delivered[0][1] < seq:
            self._delivered.popleft()
        return bool(self._delivered) and self._delivered[0][0] <= seq

    def begin(self, snapshot: Snapshot) -> None:
        """Continue after a snapshot: an event up to its number is part of it, or lost, and is not read any more."""
        self.read_to = snapshot.number
        self._unread = {
            seq: unread
            for seq, unread in self._unread.items()
            if unread.epoch == snapshot.epoch and unread.number > snapshot.number
        }
        self.bytes = sum(len(unread.event.body) for unread in self._unread.values())

    def start_outage(self, pending: Iterable[int], next_seq: int, put_local: Callable[[OutgoingEvent], None]) -> None:
        """Put the unread events to local clients, which from now on receive events without the reader.

        ``pending`` are the sequence numbers of the events that wait to be stored, which the caller puts after these;
        ``next_seq`` is that of the next event to be published.
        """
        first = min([*self._unread, *pending], default=next_seq)
        for unread in self._unread.values():
            put_local(unread.event)
        self._delivered.append([first, _OPEN])

    def end_outage(self, last_seq: int) -> None:
        """Leave the events published after ``last_seq`` to the reader again."""
        if self._delivered and self._delivered[-1][1] == _OPEN:
            self._delivered[-1][1] = last_seq
            if self._delivered[-1][0] > last_seq:
                self._delivered.pop()

    def clear(self) -> None:
        """Expect none of the stored events to be read back."""
        self._unread.clear()
        self.bytes = 0
