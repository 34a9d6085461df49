"""The replay window: the events of the last while, for clients that come back; and what a client has heard of them.

Threads: the hub thread appends; any thread reads.
Locks: ``_lock`` guards the window. It is a leaf, held to copy or change a list; a send lock may be held around it.
Blocks: never.
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

__all__ = ["DeliveryLog", "Event", "History", "event_id"]

# Changes of its filters that are remembered of a client; what lies further back is not replayed to it.
_MAX_SPANS = 64

_NUMBER = re.compile(r"[0-9]{1,18}", re.ASCII)


def event_id(epoch: str, number: int) -> str:
    """Return an event's id on the wire."""
    return f"{epoch}.{number}"


class Event(NamedTuple):
    """Be one event of the hub: its frame, and who may hear it. One without a number is for those who are connected alone."""

    frame: Frame
    audience: Audience
    #: What clients are sent for now, where that is not the frame: the same without an id.
    shown: Frame | None = None
    #: Clients have been sent it already: it is for those who come back.
    delivered: bool = False


class _Run:
    """Be a row of events in the order of their numbers that loses its first and is entered anywhere at little cost."""

    __slots__ = ("_dead", "_events")

    def __init__(self) -> None:
        self._events: list[Event | None] = []
        #: So many at the front have been dropped; their places are given back many at a time.
        self._dead = 0

    def __len__(self) -> int:
        return len(self._events) - self._dead

    def append(self, event: Event) -> None:
        self._events.append(event)

    def drop_first(self) -> None:
        self._events[self._dead] = None
        self._dead += 1
        if self._dead * 2 > len(self._events):
            del self._events[: self._dead]
            self._dead = 0

    def first(self) -> Event:
        return cast(Event, self._events[self._dead])

    def behind(self, number: int, most: int) -> list[Event]:
        """Return the first events behind a number."""
        start = bisect_right(self._events, number, lo=self._dead, key=_number)
        return cast("list[Event]", self._events[start : start + most])


def _number(event: Event | None) -> int:
    return cast(Event, event).frame.number


class History:
    """Keep events by number, contiguous, within bounds of count, bytes (of frames, uncompressed) and age in seconds."""

    def __init__(self, epoch: str, size: int, max_bytes: int, ttl: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.epoch = epoch
        self._size, self._most_bytes, self._ttl, self._clock = size, max_bytes, ttl, clock
        self._lock = threading.Lock()
        self._events = _Run()
        self._times: deque[float] = deque()
        # The index: the events of each room, and those that everyone hears.
        self._rooms: dict[Room, _Run] = {}
        self._everyone = _Run()
        self._bytes = 0
        self._head = 0
        #: Nobody can come back to where the hub is now: what its clients hear has no number yet.
        self.degraded = False

    def id(self, number: int) -> str:
        """Return a position's id on the wire: that of the event, or one that leads nowhere while there is no way back."""
        return f"{self.epoch}~{number}" if self.degraded else event_id(self.epoch, number)

    def number(self, id: str) -> int | None:
        """Return the number in an id of this epoch, None for anything else."""
        epoch, _, number = id.partition(".")
        return int(number) if epoch == self.epoch and _NUMBER.fullmatch(number) else None

    @property
    def head(self) -> int:
        """The number of the last event."""
        return self._head

    def new_epoch(self, epoch: str, number: int) -> None:
        """Forget everything, and go on behind a number of an epoch. Hub thread."""
        with self._lock:
            self.epoch, self._head, self._bytes = epoch, number, 0
            self._events, self._everyone = _Run(), _Run()
            self._rooms.clear()
            self._times.clear()

    def append(self, events: Sequence[Event]) -> None:
        """Add a run of events, and drop what is over a bound. Hub thread."""
        now = self._clock()
        with self._lock:
            self._times.extend([now] * len(events))
            for event in events:
                self._bytes += len(event.frame.plain)
                for run in self._runs_locked(event):
                    run.append(event)
            self._head = events[-1].frame.number
            self._trim_locked(now)

    def select(self, after: int, until: int | None, subscriptions: Subscriptions, most: int) -> tuple[list[Event], int] | None:
        """Return the first ``most`` events, or fewer, that a client hears behind one number and up to another or the head.

        With them comes the number up to which these are all. None when some of what lies behind ``after`` has been dropped.
        Costs ``most`` for each of the client's rooms, or once for a client that hears everything.
        """
        with self._lock:
            self._trim_locked(self._clock())
            end = self._head if until is None else min(until, self._head)
            if after >= end:
                return [], after
            if after < self._head - len(self._events):
                return None
            if subscriptions.unfiltered:
                run = self._events.behind(after, min(most, end - after))
                return [event for event in run if subscriptions.match(event.audience)], after + len(run)
            runs = [self._everyone, *[self._rooms[room] for room in subscriptions.rooms if room in self._rooms]]
            # Each run brings its first, so the first of all are among them.
            several = {event.frame.number: event for run in runs for event in run.behind(after, most)}
        found = [several[number] for number in sorted(several)[:most] if number <= end]
        return found, found[-1].frame.number if len(found) == most else end

    def count(self, after: int, subscriptions: Subscriptions, unless: Callable[[Event], bool] | None = None) -> int | None:
        """Return how many events behind a number a client hears, less those that ``unless`` is true for.

        None when some of what lies behind it has been dropped.
        """
        found = self.select(after, None, subscriptions, self._size)
        return None if found is None else sum([1 for event in found[0] if unless is None or not unless(event)])

    def first(self) -> int:
        """Return the number of the first event that is kept, or that will be."""
        with self._lock:
            return self._head - len(self._events) + 1

    def _runs_locked(self, event: Event) -> list[_Run]:
        """Return the runs in which an event stands."""
        runs = [self._events]
        for room in event.audience.rooms:
            if room not in self._rooms:
                self._rooms[room] = _Run()
            runs.append(self._rooms[room])
        if event.audience.everyone:
            runs.append(self._everyone)
        return runs

    def _trim_locked(self, now: float) -> None:
        events, times = self._events, self._times
        while times and (len(times) > self._size or self._bytes > self._most_bytes or now - times[0] > self._ttl):
            event = events.first()
            self._bytes -= len(event.frame.plain)
            times.popleft()
            for run in self._runs_locked(event):
                run.drop_first()
            for room in event.audience.rooms:
                if not self._rooms[room]:
                    del self._rooms[room]


class _Span(NamedTuple):
    """Say that a client was brought what it heard after one number and up to another."""

    after: int
    until: int | None
    subscriptions: Subscriptions

    def delivered(self, event: Event) -> bool:
        number = event.frame.number
        return self.after < number and (self.until is None or number <= self.until) and self.subscriptions.match(event.audience)


class DeliveryLog:
    """Know which events one client has been brought, through all changes of its filters. Hub thread alone."""

    __slots__ = ("_spans", "floor")

    def __init__(self, after: int, subscriptions: Subscriptions) -> None:
        self._spans = [_Span(after, None, subscriptions)]
        #: What lies at or before this number is not known any more.
        self.floor = 0

    def change(self, at: int, subscriptions: Subscriptions, first: int) -> None:
        """Hear something else behind number ``at``; ``first`` is the first number that can still be replayed."""
        last = self._spans.pop()
        if last.after < at:
            self._spans.append(last._replace(until=at))
        self._spans = [span for span in self._spans if span.until is not None and span.until >= first]
        self._forget_oldest()
        self._spans.append(_Span(at, None, subscriptions))

    def new_epoch(self, number: int) -> None:
        """Begin anew behind a number, subscriptions the same: nothing before it is known any more."""
        self._spans = [_Span(number, None, self._spans[-1].subscriptions)]
        self.floor = number

    def replayed(self, after: int, until: int, subscriptions: Subscriptions) -> None:
        """Take note of a past that is brought."""
        self._spans.insert(-1, _Span(after, until, subscriptions))
        self._forget_oldest()

    def delivered(self) -> Callable[[Event], bool]:
        """Return the question whether an event has been brought, as things stand now."""
        spans = tuple(self._spans)
        return lambda event: any([span.delivered(event) for span in spans])

    def _forget_oldest(self) -> None:
        while len(self._spans) > _MAX_SPANS:
            self.floor = max(self.floor, self._spans.pop(0).until or 0)
