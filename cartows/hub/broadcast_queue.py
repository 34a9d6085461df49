"""The hub's broadcast queue: a bounded queue.Queue, with queues beside it for what must never wait for room.

**Threads**: any may put; the hub thread alone takes.
**Locks**: the queue's own ``mutex`` guards events, controls and the next number, so that an event takes its number and its
position in the queue together.
**Blocks**: ``put_event`` for room, until its deadline, ``await_room`` without one; ``take`` until there is something.
"""

from __future__ import annotations

import queue
import time
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

__all__ = ["BroadcastQueue", "BroadcastQueueClosed"]

Event = TypeVar("Event")
Control = Callable[[], None]


class BroadcastQueueClosed(Exception):
    """The hub was shut down and takes nothing any more; the hub raises HubClosed in its place."""


class BroadcastQueue(queue.Queue[Event], Generic[Event]):
    """The counterpart of the Go hub's ``chan []byte`` and of its register and unregister channels."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.closed = False
        self._controls: deque[Control] = deque()
        self._registrations: deque[Control] = deque()
        self._number = 0

    @property
    def number(self) -> int:
        """The number of the event that was put last."""
        return self._number

    def put_event(self, build: Callable[[int], Event], timeout: float, *, wait: bool = True) -> Event | None:
        """Number an event, build it and queue it; return None when there was no room within ``timeout`` seconds.

        The deadline is for the lock and the room together, however many publishers wait. Without ``wait`` it is for the lock
        alone. Raises BroadcastQueueClosed.
        """
        deadline = time.monotonic() + timeout
        if not self.mutex.acquire(timeout=timeout):
            return None
        try:
            while not self.closed and self._qsize() >= self.maxsize:
                left = deadline - time.monotonic()
                if left <= 0 or not wait:
                    return None
                self.not_full.wait(left)
            if self.closed:
                raise BroadcastQueueClosed
            event = build(self._number + 1)
            self._number += 1
            self._put(event)
            self.not_empty.notify()
            return event
        finally:
            self.mutex.release()

    def put_unbounded(self, *items: Event) -> bool:
        """Queue items whether there is room or not; False when the queue is closed."""
        with self.mutex:
            if self.closed:
                return False
            for item in items:
                self._put(item)
            self.not_empty.notify()
            return True

    def await_room(self) -> bool:
        """Wait until there is room; False when the queue is closed."""
        with self.mutex:
            while not self.closed and self._qsize() >= self.maxsize:
                self.not_full.wait()
            return not self.closed

    def put_control(self, control: Control) -> bool:
        """Have the hub thread call a function, soon and in order; False when the queue is closed."""
        with self.mutex:
            if self.closed:
                return False
            self._controls.append(control)
            self.not_empty.notify()
            return True

    def put_registration(self, control: Control) -> bool:
        """Have the hub thread call a function, of which a bounded number is called per iteration; False when it is closed."""
        with self.mutex:
            if self.closed:
                return False
            self._registrations.append(control)
            self.not_empty.notify()
            return True

    def take(self, max_events: int, max_registrations: int) -> tuple[list[Control], list[Event]]:
        """Wait for controls or events and return them; two empty lists once the queue is closed and empty.

        Every control is returned before an event that was put after it.
        """
        with self.mutex:
            while not self._controls and not self._registrations and not self._qsize() and not self.closed:
                self.not_empty.wait()
            controls = [*self._controls]
            self._controls.clear()
            controls += [self._registrations.popleft() for _ in range(min(max_registrations, len(self._registrations)))]
            events = [self._get() for _ in range(min(max_events, self._qsize()))]
            if events:
                self.not_full.notify_all()
            return controls, events

    def close(self) -> None:
        """Take nothing more; what is queued is still returned."""
        with self.mutex:
            self.closed = True
            self.not_empty.notify_all()
            self.not_full.notify_all()
