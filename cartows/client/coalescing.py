"""Coalescing: merging two updates of one entity, and a queue that merges the updates that wait in it.

**Threads**: ``merge`` on any thread: frames and snapshots never change, and a merged one is new.
**Locks**: the owner's send lock guards a CoalescingQueue.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator

import msgspec

from ..message import OBJECT, merged_changes
from ..websocket.frames import Entity, Frame
from .queue_budget import UNLIMITED, QueueBudget

__all__ = ["CoalescingQueue", "Notice", "merge"]

# Makes the frame, without a number of its own, that reports lost events to a client; called with the notice's number.
Notice = Callable[[int], Frame]


def merge(older: Frame, newer: Frame) -> Frame:
    """Return the newer update with the ``changes`` of the older one merged in beneath its own, key by key.

    Everything else is the newer update's. It is the newer frame itself, with its compressed form, when the older one adds
    nothing: it has no changes or only keys that the newer one has too, or one of them is not written as events are.
    """
    try:
        message = OBJECT.decode(newer.payload)
        data = OBJECT.decode(message["data"])
        changes = merged_changes(_changes(OBJECT.decode(OBJECT.decode(older.payload)["data"])), _changes(data))
        if changes is None:
            return newer
        # A key that is there already stays where it is.
        payload = msgspec.json.encode({**message, "data": {**data, "changes": changes}})
    except (msgspec.DecodeError, KeyError, UnicodeError, RecursionError):
        return newer
    return Frame(payload, number=newer.number, entity=newer.entity, merges=newer.merges)


def _changes(data: dict[str, msgspec.Raw]) -> msgspec.Raw | None:
    found = data.get("changes")
    return None if found is None or bytes(found) == b"null" else found


class CoalescingQueue:
    """A queue of frames in which a new update merges with the one of the same entity that waits already.

    The older update is removed, and the merged one stands at the end. A frame about that entity which is no update is a
    barrier: updates before it do not merge with updates after it. ``notice`` makes the message that reports a loss; it takes
    the place of the first removed update.
    """

    __slots__ = ("_budget", "_deflate", "_frames", "_next", "_notice", "_notice_place", "_updates")

    def __init__(self, deflate: bool, notice: Notice | None, budget: QueueBudget = UNLIMITED) -> None:
        self._budget = budget
        self._deflate = deflate
        self._notice = notice
        #: The frames by their places, which only grow. Of Python's dicts only this one removes its first key in constant time.
        self._frames: OrderedDict[int, Frame] = OrderedDict()
        self._next = 0
        #: The place of the update that the next one of its entity merges with.
        self._updates: dict[Entity, int] = {}
        #: The place of the notice while it waits. It moves forward when an update before it is removed.
        self._notice_place: int | None = None

    def __len__(self) -> int:
        return len(self._frames)

    def __iter__(self) -> Iterator[Frame]:
        return iter(self._frames.values())

    def extend(self, frames: Iterable[Frame]) -> tuple[int, bool]:
        """Add frames; return by how many bytes the queue has grown, and whether any frame was merged."""
        grown = 0
        merged = False
        for frame in frames:
            if frame.entity is not None:
                # Any other frame about the entity is a barrier.
                waiting = self._updates.pop(frame.entity, None)
                if frame.merges and frame.number:
                    self._updates[frame.entity] = self._next
                    if waiting is not None:
                        frame = merge(self._frames[waiting], frame)
                        grown += self._remove(waiting)
                        merged = True
            self._frames[self._next] = frame
            self._budget.hold((frame,))
            self._next += 1
            grown += len(frame.wire(self._deflate))
        return grown, merged

    def _remove(self, place: int) -> int:
        """Remove a frame, put the notice in its place if none stands before it, and return by how many bytes that grows."""
        frames, notice_place, deflate = self._frames, self._notice_place, self._deflate
        older = frames[place]
        self._budget.release((older,))
        grown = -len(older.wire(deflate))
        if self._notice is None or (notice_place is not None and notice_place < place):
            del frames[place]
            return grown
        if notice_place is not None:
            replaced = frames.pop(notice_place)
            self._budget.release((replaced,))
            grown -= len(replaced.wire(deflate))
        notice = frames[place] = self._notice(older.number)
        self._budget.hold((notice,))
        self._notice_place = place
        return grown + len(notice.wire(deflate))

    def popleft(self) -> Frame:
        """Remove and return the first frame; the budget still counts it."""
        place, frame = self._frames.popitem(last=False)
        if place == self._notice_place:
            self._notice_place = None
        elif frame.entity is not None and self._updates.get(frame.entity) == place:
            del self._updates[frame.entity]
        return frame
