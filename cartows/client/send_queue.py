"""The frames that wait for one client's socket, and the policies for a client with too many of them.

**Threads**: any.
**Locks**: none of its own: the owner's send lock guards every attribute, and is held from ``pieces`` until what went out is
popped.

An *event* is a frame with a number; events come in the order of their numbers. Frames without one (answers, presence, what the
app sends to one client) are never given up. When more waits than the bounds allow, ``relieve`` applies the policy:

- ``disconnect`` changes nothing: the client is disconnected, and resumes.
- ``drop_oldest`` drops the oldest events, no more of them than it must. The cost is that of the dropped events and of the
  frames without a number before them.
- ``coalesce`` keeps of the updates of one entity the newest, in its own place, with the older ones' changes merged into it
  (see ``coalescing``). Once begun, it goes on until the queue is empty: each new update costs one merge.

A client that loses events is notified: a *notice* takes the place of the first event that was given up, and so goes out before
anything newer. One is enough while it waits, because what is given up after it was given up before it is read. Its number is
that of an event given up there, the last with nothing left between: every event before it has been sent or given up, and every
one that follows is newer.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import islice

from ..options import Policy
from ..websocket.frames import Frame
from .coalescing import CoalescingQueue, Notice
from .queue_budget import UNLIMITED, QueueBudget, share

__all__ = ["SendQueue"]

# How many frames are joined for one send at most.
_MAX_PIECES = 256


class SendQueue:
    """The frames that wait for one client, within bounds as far as the policy allows.

    ``max_frames`` and ``max_bytes`` are the bounds, ``deflate`` selects which of a frame's two forms goes out. Without a
    ``notice`` the client is not notified of a loss. ``budget`` counts what all queues hold.
    """

    __slots__ = (
        "_budget",
        "_deflate",
        "_max_bytes",
        "_max_frames",
        "_notice",
        "_policy",
        "_queue",
        "_waiting_notice",
        "bytes",
        "incomplete",
    )

    def __init__(
        self,
        policy: Policy,
        max_frames: int,
        max_bytes: int,
        deflate: bool,
        notice: Notice | None,
        budget: QueueBudget = UNLIMITED,
    ) -> None:
        self._policy = policy
        self._max_frames = max_frames
        self._max_bytes = max_bytes
        self._deflate = deflate
        self._notice = notice
        self._budget = budget
        #: None while the queue is empty, as it is for most clients most of the time: an empty deque takes 600 bytes.
        self._queue: deque[Frame] | CoalescingQueue | None = None
        #: The notice of ``drop_oldest`` while it waits; no event stands before it.
        self._waiting_notice: Frame | None = None
        #: Bytes on the wire of all frames.
        self.bytes = 0
        #: Events were given up since the owner last cleared this.
        self.incomplete = False

    def __len__(self) -> int:
        return 0 if self._queue is None else len(self._queue)

    def extend(self, frames: Sequence[Frame]) -> None:
        """Add frames, however many; the caller asks ``over`` whether they are too many."""
        queue = self._queue
        if isinstance(queue, CoalescingQueue):
            grown, merged = queue.extend(frames)
            self.bytes += grown
            self.incomplete = self.incomplete or merged
            return
        if queue is None:
            queue = self._queue = deque()
        queue.extend(frames)
        deflate = self._deflate
        self.bytes += sum([len(frame.wire(deflate)) for frame in frames])
        # Not before: the form that goes out counts, and has been made now.
        self._budget.hold(frames)

    def over(self, rest: int) -> bool:
        """Return whether more waits than the bounds allow, with so many bytes of a cut frame still to be sent."""
        return len(self) > self._max_frames or self.bytes + rest > self._max_bytes

    def relieve(self, rest: int) -> bool:
        """Apply the policy where there is need; False when more waits than the bounds allow all the same."""
        if self._policy == "drop_oldest":
            # The notice takes room as well, and more of it once its number has grown by a digit.
            while self.over(rest) and self._drop_oldest(rest):
                pass
        elif self._policy == "coalesce" and isinstance(self._queue, deque) and self.over(rest):
            coalesced = CoalescingQueue(self._deflate, self._notice, self._budget)
            self.bytes, merged = coalesced.extend(self._queue)
            self._budget.release(self._queue)
            self.incomplete = self.incomplete or merged
            self._queue = coalesced
        return not self.over(rest)

    def _drop_oldest(self, rest: int) -> bool:
        """Drop events until the others fit, the notice included as it is first made; False when there was none to drop."""
        queue, notice, deflate = self._queue, self._waiting_notice, self._deflate
        if not isinstance(queue, deque):
            return False
        dropped: list[Frame] = []
        last_behind = 0
        # Frames that are kept move to the back, and all of them return to the front in one rotation.
        rotated = 0
        while rotated < len(queue) and self.over(rest):
            if not queue[0].number:
                queue.rotate(-1)
                rotated += 1
                continue
            frame = queue.popleft()
            self.bytes -= len(frame.wire(deflate))
            dropped.append(frame)
            if self._notice is not None and notice is None:
                notice = self._waiting_notice = self._notice(frame.number)
                self.bytes += len(notice.wire(deflate))
                queue.append(notice)
                self._budget.hold((notice,))
                rotated += 1
            elif rotated and queue[-1] is notice:
                last_behind = frame.number
        queue.rotate(rotated)
        if self._notice is not None and notice is not None and last_behind:
            newer = self._waiting_notice = self._notice(last_behind)
            self.bytes += len(newer.wire(deflate)) - len(notice.wire(deflate))
            queue[queue.index(notice)] = newer
            self._budget.hold((newer,))
            dropped.append(notice)
        self._budget.release(dropped)
        self.incomplete = self.incomplete or bool(dropped)
        return bool(dropped)

    def pieces(self, room: int) -> list[bytes]:
        """Return the next frames' bytes for one send: as many as fit into ``room``, but one at least and 256 at most."""
        pieces: list[bytes] = []
        for frame in islice(self._queue or (), _MAX_PIECES):
            wire = frame.wire(self._deflate)
            room -= len(wire)
            if room < 0 and pieces:
                break
            pieces.append(wire)
        return pieces

    def pop(self, count: int) -> None:
        """Remove the first frames, which have gone out."""
        self._budget.release(self.take(count))

    def take(self, count: int) -> list[Frame]:
        """Remove the first frames, and return them; the budget still counts them."""
        queue = self._queue
        if queue is None:
            return []
        frames = [queue.popleft() for _ in range(count)]
        for frame in frames:
            self.bytes -= len(frame.wire(self._deflate))
            if frame is self._waiting_notice:
                self._waiting_notice = None
        if not queue:
            self._queue = None
        return frames

    def pop_sent(self, pieces: Sequence[bytes], taken: int) -> tuple[Frame, int] | None:
        """Remove what went out of the ``pieces``; return the frame that was cut, and how many bytes of it went out.

        The budget still counts that frame.
        """
        sent = 0
        while sent < len(pieces) and taken >= len(pieces[sent]):
            taken -= len(pieces[sent])
            sent += 1
        self.pop(sent)
        return (self.take(1)[0], taken) if sent < len(pieces) and taken > 0 else None

    def clear(self) -> None:
        """Remove everything, without a notice."""
        if self._queue is not None:
            self._budget.release(self._queue)
        self._queue = self._waiting_notice = None
        self.bytes = 0

    def share(self) -> float:
        """Return this queue's part of what all queues hold: a frame in several of them is divided."""
        return share(self._queue or ())
