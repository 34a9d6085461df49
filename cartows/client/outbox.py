"""Everything queued for one client's socket, in the order in which it goes out.

**Threads**: any.
**Locks**: none of its own: the owner's send lock guards every attribute; the history's, a leaf, is taken within it.

The order: the rest of a frame that was cut, the newest pong and a ping, the page that was taken from the history, the send
queue, more of the history, the closing frames. During a replay the send queue does not grow: messages become part of the
replay, and events are left to its cursor, which follows the history until it meets the head.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..history.replay import Replay, ReplayRequest
from ..options import Options
from ..rooms import Subscriptions
from ..websocket.frames import Frame, ping_frame, pong_frame
from .coalescing import Notice
from .queue_budget import FRAME_BYTES, UNLIMITED, QueueBudget, share
from .send_queue import SendQueue

__all__ = ["Outbox"]


class Outbox:
    """Everything queued for one client. ``notice`` makes the message that reports a loss; None for a raw protocol.

    ``budget`` counts what waits for all clients.
    """

    __slots__ = (
        "_budget",
        "_cut",
        "_deflate",
        "_notice",
        "_options",
        "_page",
        "_replay_bytes",
        "closing_frames",
        "lost",
        "ping",
        "pong",
        "queue",
        "replay",
        "rest",
        "seen",
    )

    def __init__(self, options: Options, deflate: bool, notice: Notice | None, budget: QueueBudget = UNLIMITED) -> None:
        self._options = options
        self._budget = budget
        self._deflate = deflate
        self._notice = notice
        #: The rest of a cut frame. Not a copy: the frame may be a large one, and cut for a thousand clients.
        self.rest: bytes | memoryview = b""
        #: That frame, or those of a TLS record, which the budget counts until then.
        self._cut: list[Frame] = []
        #: Pings are answered with the newest pong only (RFC 6455, section 5.5.3), so a flood of them cannot pile up.
        self.pong: bytes | None = None
        self.ping = False
        #: The send queue.
        self.queue = SendQueue(
            options.slow_consumer, options.send_queue_size, options.send_queue_bytes, deflate, notice, budget
        )
        #: What is still to be taken from the history.
        self.replay: Replay | None = None
        #: What its messages count for in the budget.
        self._replay_bytes = 0
        #: What was taken from the history and has not been sent.
        self._page: SendQueue | None = None
        #: The history has dropped events that were still to be replayed; only the closing frames go out now.
        self.lost = False
        #: The number up to which events have been offered, or passed by a replay.
        self.seen = 0
        #: The ``disconnect`` advice and the close frame.
        self.closing_frames = b""

    def pending(self) -> bool:
        """Return whether anything is queued."""
        return bool(self._before_replay() or self.replay is not None or self.closing_frames)

    def replay_is_next(self) -> bool:
        """Return whether the next send takes a page of the replay."""
        return self.replay is not None and not self._before_replay()

    def _before_replay(self) -> bool:
        return bool(self.rest or self.queue or self._page or self.ping or self.pong is not None)

    def size(self) -> tuple[int, int, int]:
        """Return the frames in the send queue and in the page, and the bytes of a cut frame; it differs once any was sent."""
        return len(self.queue), len(self._page or ()), len(self.rest)

    def keep_unsent(self, frames: Sequence[Frame], taken: int) -> None:
        """Queue what a socket left of a batch: the cut frame's rest as bytes, the frames after it as single messages."""
        for index, frame in enumerate(frames):
            wire = frame.wire(self._deflate)
            if taken < len(wire):
                if taken:
                    self._budget.hold((frame,))
                    self._cut_at(frame, taken)
                    index += 1
                self.queue.extend(frames[index:])
                return
            taken -= len(wire)

    def _cut_at(self, frame: Frame, sent: int) -> None:
        self._cut, self.rest = [frame], memoryview(frame.wire(self._deflate))[sent:]

    def _shorten_rest(self, taken: int) -> None:
        self.rest = self.rest[taken:]
        if not self.rest:
            self.rest = b""
            if self._cut:
                self._budget.release(self._cut)
                self._cut = []

    def over(self) -> bool:
        """Return whether more is queued than the bounds allow, those of this client or of all."""
        return self.queue.over(len(self.rest)) or self._budget.exhausted

    def relieve(self) -> bool:
        """Apply the policy for slow clients; False when more is queued than the bounds allow all the same."""
        return self.queue.relieve(len(self.rest)) and not self._budget.exhausted

    def share(self) -> float:
        """Return this client's part of the bytes that wait for all."""
        page = 0.0 if self._page is None else self._page.share()
        return self.queue.share() + page + share(self._cut) + self._replay_bytes

    def queue_messages(self, replay: Replay, frames: Sequence[Frame], at: int = 0) -> bool:
        """Add messages to a replay, not before the event numbered ``at``; False when it then holds too many of them."""
        replay.queue_messages(frames, at)
        return self._fits(replay)

    def change_subscriptions(
        self, replay: Replay, at: int, subscriptions: Subscriptions, frames: Sequence[Frame], request: ReplayRequest | None
    ) -> bool:
        """Continue a replay with other subscriptions; False when it then holds too many messages."""
        replay.change_subscriptions(at, subscriptions, frames, request)
        return self._fits(replay)

    def _fits(self, replay: Replay) -> bool:
        options = self._options
        self._count_replay()
        fits = replay.waiting <= options.send_queue_size and replay.waiting_bytes <= options.send_queue_bytes
        return fits and not self._budget.exhausted

    def _count_replay(self) -> None:
        replay = self.replay
        now = 0 if replay is None else replay.waiting_bytes + replay.waiting * FRAME_BYTES
        if now != self._replay_bytes:
            self._budget.change(now - self._replay_bytes)
            self._replay_bytes = now

    def next(self, room: int, closing: bool) -> tuple[list[bytes], SendQueue | None]:
        """Return what is to be sent next, and the queue to remove it from.

        About ``room`` bytes; none when the page of the replay that was taken had no event for this client.
        """
        if self.rest:
            # TLS has bytes, all of which must be offered again.
            return [self.rest if isinstance(self.rest, bytes) else bytes(self.rest[:room])], None
        if self.pong is not None or self.ping:
            pieces = [pong_frame(self.pong)] if self.pong is not None else []
            pieces += [ping_frame()] if self.ping else []
            self.pong, self.ping = None, False
            return pieces, None
        if self.replay is not None and self.replay_is_next():
            self._take_page(self.replay, room, closing)
        for queue in (self._page, self.queue):
            if queue:
                return queue.pieces(room), queue
        if self.replay is not None or not self.closing_frames:
            return [], None
        closing_frames, self.closing_frames = self.closing_frames, b""
        return [closing_frames], None

    def remove_sent(self, pieces: list[bytes], queue: SendQueue | None, taken: int, whole: bool) -> None:
        """Remove what went out; with ``whole`` all pieces are one TLS record, of which the exact rest must go out next."""
        if self.rest:
            self._shorten_rest(taken)
            return
        if queue is not None and not whole:
            cut = queue.pop_sent(pieces, taken)
            if cut is not None:
                self._cut_at(*cut)
            return
        self.rest = b"".join(pieces)
        if queue is not None:
            self._cut = queue.take(len(pieces))
        self._shorten_rest(taken)

    def _take_page(self, replay: Replay, room: int, closing: bool) -> None:
        """Take the next page from the history, act on a client that the history has left behind, go live at the head."""
        frames = replay.next(room)
        if frames is None:
            if closing:
                self.replay = None
                self._count_replay()
                return
            if self._options.slow_consumer == "disconnect":
                self.lost = True
                return
            lost = replay.skip()
            self.queue.incomplete = True
            frames = [self._notice(lost)] if self._notice is not None else []
            frames += replay.next(room) or []
        if frames:
            self._page = self._page or SendQueue("disconnect", 0, 0, self._deflate, None, self._budget)
            self._page.extend(frames)
        self._count_replay()
        if replay.is_over():
            self.seen = max(self.seen, replay.cursor)
            self.replay = None

    def drop(self) -> None:
        """Drop all messages; a frame that was begun, and the closing frames, still go out."""
        self.queue.clear()
        if self._page is not None:
            self._page.clear()
        self._page = self.replay = None
        self._count_replay()
        self.lost = False
        self.ping, self.pong = False, None

    def clear(self) -> None:
        """Drop everything."""
        self.drop()
        self._shorten_rest(len(self.rest))
        self.closing_frames = b""
