"""One budget of memory for what waits in the queues of all clients of a hub.

**Threads**: any.
**Locks**: ``_lock`` guards the counts, those of the frames among them. It is a leaf, taken while a send lock is held, and not
held while ``exceeded`` is called.

A frame is shared by its recipients, so it counts once, however many queues hold it. What has come of an unfinished message
counts, too. Only what waits is counted: a client that keeps up costs nothing here.

When more waits than the budget allows, ``exceeded`` has the slowest clients disconnected, on another thread. Until that is
done, a quarter more may wait; then no queue takes anything (``exhausted``).
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterable

from ..websocket.frames import Frame

__all__ = ["FRAME_BYTES", "QueueBudget"]

#: What a frame takes besides its bytes: the objects, and its place in a queue.
FRAME_BYTES = 256


def _nothing() -> None:
    """Do nothing."""


class QueueBudget:
    """The number of bytes that wait for all clients together, without a limit by default.

    ``exceeded`` is called when the limit is exceeded, and not again before ``begin_relief``. A send lock is held then.
    """

    def __init__(self, limit: int = sys.maxsize, exceeded: Callable[[], None] = _nothing) -> None:
        self.limit = limit
        self._exceeded = exceeded
        self._lock = threading.Lock()
        #: The bytes that wait now, and the most that ever did.
        self.bytes = 0
        self.max_bytes = 0
        #: No queue may take more.
        self.exhausted = False
        self._relief_wanted = False

    def hold(self, frames: Iterable[Frame]) -> None:
        """Count frames that a queue has taken."""
        added = 0
        with self._lock:
            for frame in frames:
                if not frame.holders:
                    size = frame.held_bytes = frame.size() + FRAME_BYTES
                    added += size
                frame.holders += 1
            # Most frames of a batch wait for another client already.
            wanted = self._change_locked(added) if added else False
        if wanted:
            self._exceeded()

    def release(self, frames: Iterable[Frame]) -> None:
        """Count frames out that a queue has given up or sent."""
        removed = 0
        with self._lock:
            for frame in frames:
                frame.holders -= 1
                if not frame.holders:
                    removed += frame.held_bytes
            # Relief may have freed too little, and nothing more may come to be held.
            wanted = self._change_locked(-removed) if removed else False
        if wanted:
            self._exceeded()

    def change(self, count: int) -> None:
        """Count bytes that wait for one client alone; with a negative ``count``, out."""
        with self._lock:
            wanted = self._change_locked(count)
        if wanted:
            self._exceeded()

    def _change_locked(self, count: int) -> bool:
        """Return whether relief is to be asked for."""
        self.bytes += count
        if self.bytes > self.max_bytes:
            self.max_bytes = self.bytes
        if self.bytes <= self.limit:
            self.exhausted = False
            return False
        self.exhausted = self.bytes > self.limit + self.limit // 4
        wanted, self._relief_wanted = not self._relief_wanted, True
        return wanted

    def begin_relief(self) -> None:
        """Call ``exceeded`` again when the limit is exceeded from now on."""
        with self._lock:
            self._relief_wanted = False

    def relieved(self, freed: float) -> bool:
        """Return whether a quarter of the limit is free once so many bytes more are: relief is not needed again soon."""
        return self.bytes - freed <= self.limit - self.limit // 4


#: For connections that belong to no hub.
UNLIMITED = QueueBudget()


def _unlock_in_child() -> None:
    # A thread that the child of a fork does not have may have held the lock. A hub makes a budget of its own there.
    UNLIMITED._lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_unlock_in_child)


def share(frames: Iterable[Frame]) -> float:
    """Return what frames take, each divided by the number of queues that hold it."""
    return sum([frame.held_bytes / max(1, frame.holders) for frame in frames])
