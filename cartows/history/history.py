"""The replay window: the most recent events, for clients that resume.

**Threads**: the hub thread appends; any thread reads.
**Locks**: ``_lock`` guards the window. It is a leaf, held only to copy or change a list. The caller may hold a send lock.
"""

from __future__ import annotations

import re
import threading
import time
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple, cast

from ..rooms import Audience, Room, Subscriptions
from ..websocket.frames import Frame

__all__ = ["Event", "History", "event_id"]

# What follows the epoch in an id.
_NUMBER = re.compile(r"([0-9]{1,18})(?:-[0-9a-f]{1,32})?", re.ASCII)


def event_id(epoch: str, number: int, mark: str = "") -> str:
    """Return an event's id on the wire."""
    return f"{epoch}.{number}-{mark}" if mark else f"{epoch}.{number}"


class Event(NamedTuple):
    """One event of the hub. An event without a number is sent to connected clients only, and never replayed."""

    frame: Frame
    audience: Audience
    #: The frame for clients that are connected now, where it is another one: the same event without an id.
    shown: Frame | None = None
    #: Whether connected clients have been sent the event already, so that it is only kept for replays.
    delivered: bool = False
    #: The mark in its id: see Entry.
    mark: str = ""


class _EventList:
    """Events in the order of their numbers. The first is dropped, and any is found by its number, at little cost."""

    __slots__ = ("_dropped", "_events")

    def __init__(self) -> None:
        self._events: list[Event | None] = []
        #: How many list items at the front are dropped events. They are deleted many at a time: one by one would copy the list.
        self._dropped = 0

    def __len__(self) -> int:
        return len(self._events) - self._dropped

    def append(self, event: Event) -> None:
        self._events.append(event)

    def drop_first(self) -> None:
        self._events[self._dropped] = None
        self._dropped += 1
        if self._dropped * 2 > len(self._events):
            del self._events[: self._dropped]
            self._dropped = 0

    def at(self, index: int) -> Event:
        return cast(Event, self._events[self._dropped + index])

    def after(self, number: int, limit: int) -> list[Event]:
        """Return the first ``limit`` events after a number."""
        start = bisect_right(self._events, number, lo=self._dropped, key=_number)
        return cast("list[Event]", self._events[start : start + limit])


def _number(event: Event | None) -> int:
    return cast(Event, event).frame.number


class History:
    """The events of one hub with contiguous numbers, within limits of count, bytes and age.

    Args:
        epoch: The epoch that the numbers belong to.
        size: The largest number of events.
        max_bytes: The largest number of bytes of their frames, uncompressed.
        ttl: The largest age of an event, in seconds.
        clock: Returns the time in seconds.
    """

    def __init__(self, epoch: str, size: int, max_bytes: int, ttl: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.epoch = epoch
        self._size, self._max_bytes, self._ttl, self._clock = size, max_bytes, ttl, clock
        self._lock = threading.Lock()
        self._events = _EventList()
        self._times: deque[float] = deque()
        # The index: the events of each room, and those for every client.
        self._rooms: dict[Room, _EventList] = {}
        self._everyone = _EventList()
        self._bytes = 0
        self._head = 0
        #: The mark of the event before the first that is kept, whose id is the oldest to resume from.
        self._mark_before = ""
        #: Whether the broker is lost. Events that clients are sent have no number then, so no client can resume from here.
        self.degraded = False

    def id(self, number: int) -> str:
        """Return a position's id on the wire: that of its event, or one that cannot be resumed from while degraded."""
        return f"{self.epoch}~{number}" if self.degraded else self.event_id(number)

    def event_id(self, number: int) -> str:
        """Return the id of an event. One that the window does not reach back to has none that can be resumed from."""
        with self._lock:
            return event_id(self.epoch, number, self._mark_locked(number) or "")

    def number(self, id: str) -> int | None:
        """Return the number in the id of an event in this window, or of the one before it; None for anything else.

        An id whose number is above the head may be that of an event that is yet to come. Its number is returned unproven: ask
        again when the event is here.
        """
        epoch, _, rest = id.partition(".")
        found = _NUMBER.fullmatch(rest)
        if found is None:
            return None
        number = int(found[1])
        with self._lock:
            if epoch != self.epoch:
                return None
            if number > self._head:
                return number
            # The same number may have been given to another event: by a broker that was restored from an older copy, or by
            # one of two that were separated.
            mark = self._mark_locked(number)
            return number if mark is not None and id == event_id(epoch, number, mark) else None

    def _mark_locked(self, number: int) -> str | None:
        """Return the mark of an event in the window, or of the one before it; None for any other."""
        index = number - (self._head - len(self._events) + 1)
        if index == -1:
            return self._mark_before
        return self._events.at(index).mark if 0 <= index < len(self._events) else None

    @property
    def head(self) -> int:
        """The number of the last event."""
        return self._head

    def new_epoch(self, epoch: str, number: int, mark: str = "") -> None:
        """Drop all events, and continue after the event with a number and a mark, of another epoch. Hub thread."""
        with self._lock:
            self.epoch, self._head, self._mark_before, self._bytes = epoch, number, mark, 0
            self._events, self._everyone = _EventList(), _EventList()
            self._rooms.clear()
            self._times.clear()

    def append(self, events: Sequence[Event]) -> None:
        """Add events, which must not be empty, and drop the oldest that are over a limit. Hub thread."""
        now = self._clock()
        with self._lock:
            self._times.extend([now] * len(events))
            for event in events:
                self._bytes += len(event.frame.plain)
                for each in self._lists_locked(event):
                    each.append(event)
            self._head = events[-1].frame.number
            self._trim_locked(now)

    def select(self, after: int, until: int | None, subscriptions: Subscriptions, limit: int) -> tuple[list[Event], int] | None:
        """Return up to ``limit`` events that match, after one number and up to another, or up to the head.

        The cost is ``limit`` for each of the rooms, or once where there is no filter.

        Returns:
            The first events that match, and the number up to which they are complete. None when events after ``after`` have
            been dropped.
        """
        with self._lock:
            self._trim_locked(self._clock())
            end = self._head if until is None else min(until, self._head)
            if after >= end:
                return [], after
            if after < self._head - len(self._events):
                return None
            if subscriptions.unfiltered:
                events = self._events.after(after, min(limit, end - after))
                return [event for event in events if subscriptions.match(event.audience)], after + len(events)
            lists = [self._everyone, *[self._rooms[room] for room in subscriptions.rooms if room in self._rooms]]
            # The first ``limit`` events of each list contain the first ``limit`` events of all.
            candidates = {event.frame.number: event for each in lists for event in each.after(after, limit)}
        found = [candidates[number] for number in sorted(candidates)[:limit] if number <= end]
        return found, found[-1].frame.number if len(found) == limit else end

    def count(self, after: int, subscriptions: Subscriptions, unless: Callable[[Event], bool] | None = None) -> int | None:
        """Return how many events after a number match, without those for which ``unless`` is true.

        None when events after that number have been dropped.
        """
        found = self.select(after, None, subscriptions, self._size)
        return None if found is None else sum([1 for event in found[0] if unless is None or not unless(event)])

    def first(self) -> int:
        """Return the number of the first event that is kept, or that will be kept next."""
        with self._lock:
            return self._head - len(self._events) + 1

    def _lists_locked(self, event: Event) -> list[_EventList]:
        """Return the lists that an event is in."""
        lists = [self._events]
        for room in event.audience.rooms:
            if room not in self._rooms:
                self._rooms[room] = _EventList()
            lists.append(self._rooms[room])
        if event.audience.everyone:
            lists.append(self._everyone)
        return lists

    def _trim_locked(self, now: float) -> None:
        events, times = self._events, self._times
        while times and (len(times) > self._size or self._bytes > self._max_bytes or now - times[0] > self._ttl):
            event = events.at(0)
            self._bytes -= len(event.frame.plain)
            self._mark_before = event.mark
            times.popleft()
            for each in self._lists_locked(event):
                each.drop_first()
            for room in event.audience.rooms:
                if not self._rooms[room]:
                    del self._rooms[room]
