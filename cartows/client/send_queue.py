"""The frames that wait for one client's socket, and what gives way when they are too many.

Threads: any.
Locks: none of its own: the owner's send lock guards every attribute, and is held from ``pieces`` until what went out is popped.
Blocks: never.

An *event* is a frame with a number; events come in the order of their numbers. Frames without one (answers, presence, what the
app sends to one client) are never given up. When more waits than the bounds allow, ``relieve`` applies the policy:

- ``disconnect`` changes nothing: the client is put out, and resumes.
- ``drop_oldest`` drops the oldest events, no more of them than it must. That costs what is dropped and the frames without a
  number that stand before it.
- ``coalesce`` keeps of the updates of one entity the newest, in its own place, with the older ones' changes merged into it. A
  frame about that entity which is no update parts those before it from those behind it. Once begun, it goes on until nothing
  waits any more: each new update takes in the one that waits for it, at the cost of that one merge.

Who loses something is told: a *notice* takes the place of the first event that was given up and so goes out before anything
newer. One is enough while it waits, because what is given up behind it was given up before it is read. Its number is that of an
event given up there, the last with nothing left between: every event before it has been sent or given up, and every one that
follows is newer.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice

from ..options import Policy
from ..websocket.frames import Entity, Frame
from .coalescing import merge

__all__ = ["Notice", "SendQueue"]

# Makes the frame, without a number of its own, that tells a client it has lost something; called with the notice's number.
Notice = Callable[[int], Frame]

# The most frames that are joined for one send.
_MAX_PIECES = 256


class SendQueue:
    """Hold what waits for one client, within bounds as far as the policy can see to it.

    ``most`` and ``max_bytes`` are the bounds, ``deflate`` says which of a frame's two forms goes out. Without a ``notice``
    nobody is told of a loss.
    """

    __slots__ = ("_deflate", "_most", "_most_bytes", "_notice", "_policy", "_queue", "_told", "bytes", "incomplete")

    def __init__(self, policy: Policy, most: int, max_bytes: int, deflate: bool, notice: Notice | None) -> None:
        self._policy = policy
        self._most = most
        self._most_bytes = max_bytes
        self._deflate = deflate
        self._notice = notice
        #: None while nothing waits, as is so for most clients most of the time: an empty deque takes 600 bytes.
        self._queue: deque[Frame] | _Coalesced | None = None
        #: The notice of ``drop_oldest`` while it waits; no event stands before it.
        self._told: Frame | None = None
        #: Bytes on the wire of all that waits.
        self.bytes = 0
        #: Something was given up since the owner last cleared this.
        self.incomplete = False

    def __len__(self) -> int:
        return 0 if self._queue is None else len(self._queue)

    def extend(self, frames: Sequence[Frame]) -> None:
        """Add frames; whether that is too much is for ``over`` to say."""
        queue = self._queue
        if isinstance(queue, _Coalesced):
            grown, merged = queue.extend(frames)
            self.bytes += grown
            self.incomplete = self.incomplete or merged
            return
        if queue is None:
            queue = self._queue = deque()
        queue.extend(frames)
        deflate = self._deflate
        self.bytes += sum([len(frame.wire(deflate)) for frame in frames])

    def over(self, rest: int) -> bool:
        """Return whether more waits than the bounds allow, with so many bytes of a cut frame still to be sent."""
        return len(self) > self._most or self.bytes + rest > self._most_bytes

    def relieve(self, rest: int) -> bool:
        """Apply the policy if there is need; False when more waits than the bounds allow all the same."""
        if self._policy == "drop_oldest":
            # The notice takes room as well, and more of it once its number has grown by a digit.
            while self.over(rest) and self._drop_oldest(rest):
                pass
        elif self._policy == "coalesce" and isinstance(self._queue, deque) and self.over(rest):
            coalesced = _Coalesced(self._deflate, self._notice)
            self.bytes, merged = coalesced.extend(self._queue)
            self.incomplete = self.incomplete or merged
            self._queue = coalesced
        return not self.over(rest)

    def _drop_oldest(self, rest: int) -> bool:
        """Drop events until the others fit, the notice included as it is first made; False when there was none to drop."""
        queue, told, deflate = self._queue, self._told, self._deflate
        if not isinstance(queue, deque):
            return False
        dropped = behind = 0
        # What is kept goes round to the back and returns to the front in one turn.
        turned = 0
        while turned < len(queue) and self.over(rest):
            if not queue[0].number:
                queue.rotate(-1)
                turned += 1
                continue
            frame = queue.popleft()
            self.bytes -= len(frame.wire(deflate))
            dropped += 1
            if self._notice is not None and told is None:
                told = self._told = self._notice(frame.number)
                self.bytes += len(told.wire(deflate))
                queue.append(told)
                turned += 1
            elif turned and queue[-1] is told:
                behind = frame.number
        queue.rotate(turned)
        if self._notice is not None and told is not None and behind:
            newer = self._told = self._notice(behind)
            self.bytes += len(newer.wire(deflate)) - len(told.wire(deflate))
            queue[queue.index(told)] = newer
        self.incomplete = self.incomplete or dropped > 0
        return dropped > 0

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
        """Let go of the first frames, which have gone out."""
        queue = self._queue
        if queue is None:
            return
        for _ in range(count):
            frame = queue.popleft()
            self.bytes -= len(frame.wire(self._deflate))
            if frame is self._told:
                self._told = None
        if not queue:
            self._queue = None

    def pop_sent(self, pieces: Sequence[bytes], taken: int) -> bytes:
        """Let go of what went out of the ``pieces`` and return the rest of the one that was cut."""
        for piece in pieces:
            if taken <= 0:
                return b""
            self.pop(1)
            if taken < len(piece):
                return piece[taken:]
            taken -= len(piece)
        return b""

    def clear(self) -> None:
        """Let go of everything; nobody is told."""
        self._queue = self._told = None
        self.bytes = 0


class _Coalesced:
    """Queue frames as a deque does, save that an update takes in the one of its entity that waits already."""

    __slots__ = ("_deflate", "_frames", "_next", "_notice", "_told", "_updates")

    def __init__(self, deflate: bool, notice: Notice | None) -> None:
        self._deflate = deflate
        self._notice = notice
        #: The frames by their places, which only grow. Of Python's dicts this one alone gives up its first key in no time.
        self._frames: OrderedDict[int, Frame] = OrderedDict()
        self._next = 0
        #: The place of the update that a newer one of that entity takes in.
        self._updates: dict[Entity, int] = {}
        #: The place of the notice while it waits; every place given up meanwhile is behind it.
        self._told: int | None = None

    def __len__(self) -> int:
        return len(self._frames)

    def __iter__(self) -> Iterator[Frame]:
        return iter(self._frames.values())

    def extend(self, frames: Iterable[Frame]) -> tuple[int, bool]:
        """Add frames; return by how many bytes all has grown, and whether any was merged."""
        grown = 0
        merged = False
        for frame in frames:
            if frame.entity is not None:
                # Anything else about the entity parts what is before it from what is behind it.
                waiting = self._updates.pop(frame.entity, None)
                if frame.merges and frame.number:
                    self._updates[frame.entity] = self._next
                    if waiting is not None:
                        frame = merge(self._frames[waiting], frame)
                        grown += self._give_up(waiting)
                        merged = True
            self._frames[self._next] = frame
            self._next += 1
            grown += len(frame.wire(self._deflate))
        return grown, merged

    def _give_up(self, place: int) -> int:
        """Take a frame out, leave the notice there if none stands before it, and return by how many bytes all has grown."""
        frames, told, deflate = self._frames, self._told, self._deflate
        older = frames[place]
        grown = -len(older.wire(deflate))
        if self._notice is None or (told is not None and told < place):
            del frames[place]
            return grown
        if told is not None:
            grown -= len(frames.pop(told).wire(deflate))
        notice = frames[place] = self._notice(older.number)
        self._told = place
        return grown + len(notice.wire(deflate))

    def popleft(self) -> Frame:
        """Take out the first frame."""
        place, frame = self._frames.popitem(last=False)
        if place == self._told:
            self._told = None
        elif frame.entity is not None and self._updates.get(frame.entity) == place:
            del self._updates[frame.entity]
        return frame
