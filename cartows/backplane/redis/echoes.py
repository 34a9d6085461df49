"""What this process's own events are when they are read back: news to its clients, or heard already.

Threads: any.
Locks: none of its own; the lane's is held throughout.
Blocks: never.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import NamedTuple

from ..base import OutgoingEvent, Snapshot

__all__ = ["Echoes"]

# Above every seq.
_OPEN = 2**63


class _Unread(NamedTuple):
    epoch: str
    number: int
    event: OutgoingEvent


class Echoes:
    """Know which of the process's events were stored and not read back, and which its clients have heard without that."""

    def __init__(self) -> None:
        #: What is stored and was neither read back nor put to local clients, by its seq; empty while away, and without a sink.
        self._unread: dict[int, _Unread] = {}
        #: The bytes of that.
        self.bytes = 0
        #: From which seq to which own events were put to local clients, until they were read back. The last is open while away.
        self._heard: deque[list[int]] = deque()
        #: Up to which number the reader has come.
        self.read_to = 0

    def __len__(self) -> int:
        return len(self._unread)

    def stored(self, seq: int, epoch: str, number: int, event: OutgoingEvent) -> None:
        """Note an event that the reader is to come to, unless it has been there."""
        if number > self.read_to:
            self._unread[seq] = _Unread(epoch, number, event)
            self.bytes += len(event.body)

    def read_back(self, seq: int) -> bool:
        """Note that the reader has come to an event; returns whether local clients have heard it already."""
        unread = self._unread.pop(seq, None)
        if unread is not None:
            self.bytes -= len(unread.event.body)
        while self._heard and self._heard[0][1] < seq:
            self._heard.popleft()
        return bool(self._heard) and self._heard[0][0] <= seq

    def begin(self, past: Snapshot) -> None:
        """Note that the reader goes on behind another past: what is below is in it, or was lost, and not read any more."""
        self.read_to = past.number
        self._unread = {
            seq: unread for seq, unread in self._unread.items() if unread.epoch == past.epoch and unread.number > past.number
        }
        self.bytes = sum(len(unread.event.body) for unread in self._unread.values())

    def go_away(self, waiting: Iterable[int], next_seq: int, put_local: Callable[[OutgoingEvent], None]) -> None:
        """Have local clients hear what they have not, from here on without the reader.

        ``waiting`` are the events that wait to be stored, which are put to them behind these; ``next_seq`` is the first that is
        not taken yet.
        """
        first = min([*self._unread, *waiting], default=next_seq)
        for unread in self._unread.values():
            put_local(unread.event)
        self._heard.append([first, _OPEN])

    def come_back(self, last_seq: int) -> None:
        """Have local clients hear what is taken behind ``last_seq`` from the reader again."""
        if self._heard and self._heard[-1][1] == _OPEN:
            self._heard[-1][1] = last_seq
            if self._heard[-1][0] > last_seq:
                self._heard.pop()

    def clear(self) -> None:
        """Wait for none of them to be read back."""
        self._unread.clear()
        self.bytes = 0
