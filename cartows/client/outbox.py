"""Everything that waits for one client's socket, in the order in which it goes out.

Threads: any.
Locks: none of its own: the owner's send lock guards every attribute; the history's, a leaf, is taken within it.
Blocks: never.

The order: the rest of a frame that was cut, the newest pong and a ping, what was taken from the history, the send queue, more
of the history, the closing_frames. While a replay goes on the queue is not added to: what is said meanwhile becomes part of the
replay, and events are left to its cursor, which follows the history until it meets the head.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..history.replay import Replay, ReplayRequest
from ..options import Options
from ..rooms import Subscriptions
from ..websocket.frames import Frame, ping_frame, pong_frame
from .send_queue import Notice, SendQueue

__all__ = ["Outbox"]


class Outbox:
    """Hold what waits for one client. ``notice`` makes what tells it of a loss, None for a raw protocol."""

    __slots__ = (
        "_deflate",
        "_notice",
        "_options",
        "_page",
        "backlog",
        "closing_frames",
        "lost",
        "ping",
        "pong",
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
        self.backlog = SendQueue(options.slow_consumer, options.send_queue_size, options.send_queue_bytes, deflate, notice)
        #: What is still to come from the history.
        self.replay: Replay | None = None
        #: What was taken from the history and has not been sent.
        self._page: SendQueue | None = None
        #: The history has dropped what was still to be replayed; nothing more goes out but the reason.
        self.lost = False
        #: The number up to which events have been offered, or passed by a replay.
        self.seen = 0
        #: Advice and close frame.
        self.closing_frames = b""

    def pending(self) -> bool:
        """Return whether anything waits."""
        return bool(self._ahead() or self.replay is not None or self.closing_frames)

    def at_page(self) -> bool:
        """Return whether a page of the replay is next in line."""
        return self.replay is not None and not self._ahead()

    def _ahead(self) -> bool:
        return bool(self.rest or self.backlog or self._page or self.ping or self.pong is not None)

    def size(self) -> tuple[int, int, int]:
        """Return how many frames wait in the send queue and the page, and how many bytes of a cut one; to see it move."""
        return len(self.backlog), len(self._page or ()), len(self.rest)

    def cut(self, frames: Sequence[Frame], taken: int) -> None:
        """Keep what a socket left of a batch: the cut frame's rest as bytes, everything behind it as single messages."""
        for index, frame in enumerate(frames):
            wire = frame.wire(self._deflate)
            if taken < len(wire):
                if taken:
                    self.rest = wire[taken:]
                    index += 1
                self.backlog.extend(frames[index:])
                return
            taken -= len(wire)

    def over(self) -> bool:
        """Return whether more waits than the bounds allow."""
        return self.backlog.over(len(self.rest))

    def relieve(self) -> bool:
        """Apply the policy for slow clients; False when more waits than the bounds allow all the same."""
        return self.backlog.relieve(len(self.rest))

    def queue_messages(self, replay: Replay, frames: Sequence[Frame], at: int = 0) -> bool:
        """Have a replay bring messages as well, not before the event numbered ``at``; False when too many of them wait."""
        replay.queue_messages(frames, at)
        return self._fits(replay)

    def change_subscriptions(
        self, replay: Replay, at: int, subscriptions: Subscriptions, frames: Sequence[Frame], past: ReplayRequest | None
    ) -> bool:
        """Have a replay go on with something else; False when too many messages wait in it."""
        replay.change_subscriptions(at, subscriptions, frames, past)
        return self._fits(replay)

    def _fits(self, replay: Replay) -> bool:
        options = self._options
        return replay.waiting <= options.send_queue_size and replay.waiting_bytes <= options.send_queue_bytes

    def next(self, room: int, closing: bool) -> tuple[list[bytes], SendQueue | None]:
        """Return what is next in line, about ``room`` bytes and perhaps nothing yet, and the queue it is to be popped from."""
        if self.rest:
            return [self.rest], None
        if self.pong is not None or self.ping:
            pieces = [pong_frame(self.pong)] if self.pong is not None else []
            pieces += [ping_frame()] if self.ping else []
            self.pong, self.ping = None, False
            return pieces, None
        if self.replay is not None and self.at_page():
            self._turn_page(self.replay, room, closing)
        for queue in (self._page, self.backlog):
            if queue:
                return queue.pieces(room), queue
        if self.replay is not None or not self.closing_frames:
            return [], None
        closing_frames, self.closing_frames = self.closing_frames, b""
        return [closing_frames], None

    def took(self, pieces: list[bytes], queue: SendQueue | None, taken: int, whole: bool) -> None:
        """Let go of what went out; with ``whole`` all pieces are one record, of which the very rest must go out next."""
        if queue is not None and not whole:
            self.rest = queue.pop_sent(pieces, taken)
            return
        self.rest = b"".join(pieces)[taken:]
        if queue is not None:
            queue.pop(len(pieces))

    def _turn_page(self, replay: Replay, room: int, closing: bool) -> None:
        """Take the next page from the history, or see that the client has fallen behind it, and go live at its head."""
        frames = replay.next(room)
        if frames is None:
            if closing:
                self.replay = None
                return
            if self._options.slow_consumer == "disconnect":
                self.lost = True
                return
            lost = replay.skip()
            self.backlog.incomplete = True
            frames = [self._notice(lost)] if self._notice is not None else []
            frames += replay.next(room) or []
        if frames:
            self._page = self._page or SendQueue("disconnect", 0, 0, self._deflate, None)
            self._page.extend(frames)
        if replay.is_over():
            self.seen = max(self.seen, replay.cursor)
            self.replay = None

    def drop(self) -> None:
        """Let go of all messages; what was begun, and a closing_frames, still go out."""
        self.backlog.clear()
        self._page = self.replay = None
        self.lost = False
        self.ping, self.pong = False, None

    def clear(self) -> None:
        """Let go of everything."""
        self.drop()
        self.rest = self.closing_frames = b""
