"""The replay of one client that resumes: the missed events, and the messages that belong between them.

**Threads**: the thread that writes to the client's socket; the hub thread and others add to it.
**Locks**: none of its own. The client's send lock guards all of it; it takes the lock of the history.

A replay is a sequence of segments. Each sends the matching events of one range of the history, then the messages that follow.
The last segment has no end: when it reaches the head of the history, nothing is missing between the replay and the next batch
of the hub. Events do not wait in memory for a client that replays: they are in the history, which it reads with a cursor.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import NamedTuple

from ..rooms import Subscriptions
from ..websocket.frames import Frame
from .history import Event, History

__all__ = ["Replay", "ReplayRequest"]

# Events examined in one iteration of the writer. It holds the send lock meanwhile, and the hub thread may wait for that.
_SCAN_LIMIT = 256


class ReplayRequest(NamedTuple):
    """What to replay: the events after a number that match, except those for which ``delivered`` is true."""

    after: int
    subscriptions: Subscriptions
    delivered: Callable[[Event], bool]


class _Segment:
    __slots__ = ("cursor", "delivered", "messages", "subscriptions", "until")

    def __init__(self, cursor: int, subscriptions: Subscriptions, delivered: Callable[[Event], bool] | None = None) -> None:
        #: The number of the last event that has been examined.
        self.cursor = cursor
        self.subscriptions = subscriptions
        self.delivered = delivered
        #: The number of the last event of this segment, None for the segment without an end.
        self.until: int | None = None
        #: The messages to send at the end of the segment.
        self.messages: list[Frame] = []


class Replay:
    """A cursor that follows the history from a number until it reaches the head."""

    __slots__ = ("_history", "_segments", "waiting", "waiting_bytes")

    def __init__(self, history: History, after: int, subscriptions: Subscriptions) -> None:
        self._history = history
        self._segments = deque([_Segment(after, subscriptions)])
        #: The messages that wait, and their bytes, which count against the limits of the send queue. Events do not wait.
        self.waiting = 0
        self.waiting_bytes = 0

    @property
    def cursor(self) -> int:
        """The number up to which the client is complete once all planned segments have been sent."""
        return self._segments[-1].cursor

    def queue_messages(self, frames: Iterable[Frame], at: int = 0) -> None:
        """Send messages after all that is planned, and not before the event numbered ``at``."""
        tail = self._segments[-1]
        self._end(at, frames, tail.subscriptions)

    def change_subscriptions(
        self, at: int, subscriptions: Subscriptions, frames: Iterable[Frame], request: ReplayRequest | None
    ) -> None:
        """Change the subscriptions after the event numbered ``at``; before that send a requested replay, then the messages."""
        if request is not None:
            self._end(at, (), subscriptions)
            self._segments[-1] = _Segment(*request)
        self._end(at, frames, subscriptions)

    def _end(self, at: int, frames: Iterable[Frame], subscriptions: Subscriptions) -> None:
        tail = self._segments[-1]
        tail.until = max(at, tail.cursor)
        for frame in frames:
            tail.messages.append(frame)
            self.waiting += 1
            self.waiting_bytes += len(frame.plain)
        self._segments.append(_Segment(tail.until, subscriptions))

    def next(self, max_bytes: int) -> list[Frame] | None:
        """Return the next frames, about ``max_bytes``, or none yet; None when events that are due have been dropped."""
        found: list[Frame] = []
        size = 0
        while True:
            segment = self._segments[0]
            selected = self._history.select(segment.cursor, segment.until, segment.subscriptions, _SCAN_LIMIT)
            if selected is None:
                return found or None
            events, reached = selected
            for event in events:
                if segment.delivered is None or not segment.delivered(event):
                    found.append(event.frame)
                    size += len(event.frame.plain)
                    if size >= max_bytes:
                        segment.cursor = event.frame.number
                        return found
            segment.cursor = reached
            if segment.until is None or reached < segment.until:
                return found
            for frame in segment.messages:
                self.waiting -= 1
                self.waiting_bytes -= len(frame.plain)
            found += segment.messages
            self._segments.popleft()

    def is_over(self) -> bool:
        """Return whether the head of the history has been reached and nothing is left to send."""
        return len(self._segments) == 1 and self._segments[0].cursor >= self._history.head

    def skip(self) -> int:
        """Continue with the first event that the history still has; return the number of the last one that is lost."""
        lost = self._history.first() - 1
        segment = self._segments[0]
        segment.cursor = max(segment.cursor, lost if segment.until is None else min(lost, segment.until))
        return segment.cursor
