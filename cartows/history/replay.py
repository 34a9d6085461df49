"""What a client that comes back is given from the history before it goes live.

Threads: whoever writes to the client's socket; the hub thread and others add to it.
Locks: none of its own, the client's send lock guards all of it; it takes the history's.
Blocks: never.

A replay is a row of parts. Each brings what is heard of one stretch of the history, then the messages that stand behind it. The
last part has no end: when it meets the head of the history nothing is missing between the replay and the hub's next batch.
Events do not wait in memory for a client that replays: they are in the history, and it follows them with a cursor.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import NamedTuple

from ..rooms import Subscriptions
from ..websocket.frames import Frame
from .history import Event, History

__all__ = ["Replay", "ReplayRequest"]

# Events looked at in one turn of whoever writes.
_SCAN = 256


class ReplayRequest(NamedTuple):
    """What is to be replayed: the events after a number that match, except those that ``delivered`` is true for."""

    after: int
    subscriptions: Subscriptions
    delivered: Callable[[Event], bool]


class _Part:
    __slots__ = ("cursor", "delivered", "subscriptions", "then", "until")

    def __init__(self, cursor: int, subscriptions: Subscriptions, delivered: Callable[[Event], bool] | None = None) -> None:
        #: The number of the last event that has been looked at.
        self.cursor = cursor
        self.subscriptions = subscriptions
        self.delivered = delivered
        #: The last event of this part, None for the part without an end.
        self.until: int | None = None
        #: What is sent once the part is over.
        self.then: list[Frame] = []


class Replay:
    """Follow the history behind a number until its head is met."""

    __slots__ = ("_history", "_parts", "waiting", "waiting_bytes")

    def __init__(self, history: History, after: int, subscriptions: Subscriptions) -> None:
        self._history = history
        self._parts = deque([_Part(after, subscriptions)])
        #: Messages other than events, and their bytes, which count against the bounds of the send queue.
        self.waiting = 0
        self.waiting_bytes = 0

    @property
    def cursor(self) -> int:
        """The number up to which the client has been served once all that is planned has come."""
        return self._parts[-1].cursor

    def queue_messages(self, frames: Iterable[Frame], at: int = 0) -> None:
        """Send messages behind all that is planned, and not before the event numbered ``at`` has had its turn."""
        tail = self._parts[-1]
        self._end(at, frames, tail.subscriptions)

    def change_subscriptions(
        self, at: int, subscriptions: Subscriptions, frames: Iterable[Frame], past: ReplayRequest | None
    ) -> None:
        """Hear something else behind the event numbered ``at``; before that bring a past, and the messages behind it."""
        if past is not None:
            self._end(at, (), subscriptions)
            self._parts[-1] = _Part(*past)
        self._end(at, frames, subscriptions)

    def _end(self, at: int, frames: Iterable[Frame], subscriptions: Subscriptions) -> None:
        tail = self._parts[-1]
        tail.until = max(at, tail.cursor)
        for frame in frames:
            tail.then.append(frame)
            self.waiting += 1
            self.waiting_bytes += len(frame.plain)
        self._parts.append(_Part(tail.until, subscriptions))

    def next(self, max_bytes: int) -> list[Frame] | None:
        """Return what comes next, about so many bytes and perhaps nothing yet; None when the history is out of reach."""
        found: list[Frame] = []
        size = 0
        while True:
            part = self._parts[0]
            heard = self._history.select(part.cursor, part.until, part.subscriptions, _SCAN)
            if heard is None:
                return found or None
            events, reached = heard
            for event in events:
                if part.delivered is None or not part.delivered(event):
                    found.append(event.frame)
                    size += len(event.frame.plain)
                    if size >= max_bytes:
                        part.cursor = event.frame.number
                        return found
            part.cursor = reached
            if part.until is None or reached < part.until:
                return found
            for frame in part.then:
                self.waiting -= 1
                self.waiting_bytes -= len(frame.plain)
            found += part.then
            self._parts.popleft()

    def is_over(self) -> bool:
        """Return whether the head of the history is met and nothing is left to send."""
        return len(self._parts) == 1 and self._parts[0].cursor >= self._history.head

    def skip(self) -> int:
        """Go on with the first event that the history still has; returns the number of the last that is lost."""
        lost = self._history.first() - 1
        part = self._parts[0]
        part.cursor = max(part.cursor, lost if part.until is None else min(lost, part.until))
        return part.cursor
