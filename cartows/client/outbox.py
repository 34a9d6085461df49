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
from .send_queue import SendQueue

__all__ = ["Outbox"]


class Outbox:
    """Everything queued for one client. ``notice`` makes the message that reports a loss; None for a raw protocol."""

    __slots__ = (
        "_deflate",
        "_notice",
        "_options",
        "_page",
        "closing_frames",
        "lost",
        "ping",
        "pong",
        "queue",
        "replay",
        "rest",
        "seen",
    )

    def __init__(self, options: Options, deflate: bool, notice: Notice | None) -> None:
        self._options = options
        self._deflate = deflate
        self._notice = notice
        #: The rest of a cut frame.
        self.rest = b""
        #: Pings are answered with the newest pong only (RFC 6455, section 5.5.3), so a flood of them cannot pile up.
        self.pong: bytes | None = None
        self.ping = False
        #: The send queue.
        self.queue = SendQueue(options.slow_consumer, options.send_queue_size, options.send_queue_bytes, deflate, notice)
        #: What is still to be taken from the history.
        self.replay: Replay | None = None
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
                    self.rest = wire[taken:]
                    index += 1
                self.queue.extend(frames[index:])
                return
            taken -= len(wire)

    def over(self) -> bool:
        """Return whether more is queued than the bounds allow."""
        return self.queue.over(len(self.rest))

    def relieve(self) -> bool:
        """Apply the policy for slow clients; False when more is queued than the bounds allow all the same."""
        return self.queue.relieve(len(self.rest))

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
        return replay.waiting <= options.send_queue_size and replay.waiting_bytes <= options.send_queue_bytes

    def next(self, room: int, closing: bool) -> tuple[list[bytes], SendQueue | None]:
        """Return what is to be sent next, and the queue to remove it from.

        About ``room`` bytes; none when the page of the replay that was taken had no event for this client.
        """
        if self.rest:
            return [self.rest], None
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
        if queue is not None and not whole:
            self.rest = queue.pop_sent(pieces, taken)
            return
        self.rest = b"".join(pieces)[taken:]
        if queue is not None:
            queue.pop(len(pieces))

    def _take_page(self, replay: Replay, room: int, closing: bool) -> None:
        """Take the next page from the history, act on a client that the history has left behind, go live at the head."""
        frames = replay.next(room)
        if frames is None:
            if closing:
                self.replay = None
                return
            if self._options.slow_consumer == "disconnect":
                self.lost = True
                return
            lost = replay.skip()
            self.queue.incomplete = True
            frames = [self._notice(lost)] if self._notice is not None else []
            frames += replay.next(room) or []
        if frames:
            self._page = self._page or SendQueue("disconnect", 0, 0, self._deflate, None)
            self._page.extend(frames)
        if replay.is_over():
            self.seen = max(self.seen, replay.cursor)
            self.replay = None

    def drop(self) -> None:
        """Drop all messages; a frame that was begun, and the closing frames, still go out."""
        self.queue.clear()
        self._page = self.replay = None
        self.lost = False
        self.ping, self.pong = False, None

    def clear(self) -> None:
        """Drop everything."""
        self.drop()
        self.rest = self.closing_frames = b""
