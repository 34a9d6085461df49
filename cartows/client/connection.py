"""One client's connection: a Sender, what the client says, and how the two of them end.

Threads: the reader thread runs ``messages`` and ``finish``; the hub thread ``open``; any thread may ping, close or abort.
Locks: the send lock (see ``sending``). News go to the owner once it is released.
Blocks: ``messages`` on the socket, ``finish`` on the writer's end; nothing else.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from typing import Protocol

from ..history.replay import Replay
from ..options import Options
from ..websocket.close_codes import CloseCode
from ..websocket.frames import Frame, close_frame
from ..websocket.parser import Closed, Extensions, Inbound, Overhead, Pinged
from .rate_limit import ADMIT, END, RateLimit
from .sender import OVERFLOW, WANTS_WRITER, Sender
from .transport import Transport

__all__ = ["Connection", "Owner"]

# How long the reader gives its answer to the peer's close frame to leave.
_ANSWER_WAIT = 1.0

# How long a peer that broke the protocol is listened to, so that it can read why it is put out (RFC 6455, section 7.1.7).
_LINGER = 2.0

# What is thrown away is read in so large pieces, and so many seconds apart: a flood is the peer's to wait for, not ours.
_DISCARDED = 64 * 1024
_DISCARD_PAUSE = 0.01


class Owner(Protocol):
    """Be told, with no lock held, what a connection cannot do by itself."""

    def start_writer(self) -> None:
        """See that ``write_pump`` gets a thread."""

    def closing_begun(self, within: float) -> None:
        """See that the connection is aborted unless it has ended in so many seconds."""

    def flooded(self) -> None:
        """Put out a client that says more than it may."""

    def overflow(self) -> None:
        """Put out a client that cannot be brought what it has missed."""

    def incomplete_frame(self, number: int) -> Frame:
        """Return the message that stands for lost events up to a number; called with the send lock held, so take none."""


class Connection(Sender):
    """Join a transport, the client's send queue and its inbound side."""

    __slots__ = ("__weakref__", "_inbound", "handling", "last_received", "limit", "owner")

    def __init__(self, transport: Transport, lock: threading.Lock, options: Options, reply: bytes = b"") -> None:
        extensions = Extensions.agreed(reply)
        super().__init__(transport, lock, options, reply, extensions.reads_deflate)
        self.owner: Owner | None = None
        # The reader thread's, save that the heartbeat reads the first two.
        #: When bytes last came, by the monotonic clock.
        self.last_received = time.monotonic()
        #: A message is being handled: the peer's silence does not count.
        self.handling = False
        self._inbound = Inbound(extensions, options.max_message_size)
        #: How much the peer may say, None for any amount.
        self.limit = None if options.rate_limit is None else RateLimit(options.rate_limit, options.rate_burst)
        _open_connections[id(self)] = self

    # Opening, control frames, closing ------------------------------------------------------------------------------

    def open(self, greeting: Frame | None, seen: int = 0, replay: Replay | None = None) -> None:
        """Send the handshake's reply and the greeting, ahead of everything that was queued, then a replay. Hub thread.

        Events up to number ``seen`` are not for this client: it has had them, or came after them. Nothing happens when it is
        open: a peer that went before the hub came to it has been answered.
        """
        with self.lock:
            if self._opened:
                return
            self._opened = True
            self._out.seen, self._out.replay = seen, replay
            self._out.rest, self._reply = self._reply + (greeting.plain if greeting is not None else b""), b""
            if self._asked is not None and not self.closing:
                self._position_locked(self._asked, seen)
            self._asked = None
            outcome = self._push_locked()
        self._tell(outcome)

    def ping(self) -> None:
        """Send a ping, or have one sent as soon as a frame that was cut is whole."""
        with self.lock:
            self._out.ping = not self.closing
            outcome = self._push_locked()
        self._tell(outcome)

    def pong(self, payload: bytes) -> None:
        """Answer a ping."""
        with self.lock:
            if not self.closing:
                self._out.pong = payload
            outcome = self._push_locked()
        self._tell(outcome)

    def close(
        self,
        code: int | None,
        reason: str = "",
        *,
        advice: Frame | None = None,
        drop_queue: bool = False,
        hang_up: bool = False,
        within: float | None = None,
    ) -> bool:
        """Say goodbye: the advice, then a close frame, behind what is queued or, with ``drop_queue``, instead of it.

        With ``hang_up`` a FIN follows. The peer has ``within`` seconds (default: ``write_wait``) to answer before the
        connection is aborted. False when somebody said goodbye before. Any thread; never waits. Raises ValueError for what is
        no close code.
        """
        closing_frames = (advice.plain if advice is not None else b"") + close_frame(code, reason)
        with self.lock:
            if self.closing:
                return False
            self.closing = True
            self.close_code, self.close_reason = (CloseCode.NO_STATUS if code is None else code), reason
            if drop_queue or self._out.lost:
                self._out.drop()
            self._hangs_up = hang_up
            self._out.closing_frames = closing_frames
            outcome = self._push_locked()
        self._tell(outcome)
        if self.owner is not None:
            self.owner.closing_begun(self.options.write_wait if within is None else within)
        return True

    def _tell(self, outcome: int) -> None:
        if outcome == WANTS_WRITER and self.owner is not None:
            self.owner.start_writer()
        elif outcome == OVERFLOW:
            self.overrun()

    def overrun(self) -> None:
        """See Sender.overrun."""
        if self.owner is not None:
            self.owner.overflow()

    def _notice(self, number: int) -> Frame:
        """See Sender._notice."""
        assert self.owner is not None
        return self.owner.incomplete_frame(number)

    # Reading ------------------------------------------------------------------------------------------------------

    def messages(self) -> Iterator[str | bytes]:
        """Give each whole message until the connection ends, answering pings and the close frame. Reader thread."""
        discard = False
        while True:
            try:
                data = self.transport.receive(_DISCARDED if discard else self.options.read_buffer)
            except OSError:
                data = b""
            if not data:
                return
            self.last_received = time.monotonic()
            if discard:
                # What was wrong has been said; closing with bytes unread would reset the connection before it is heard.
                time.sleep(_DISCARD_PAUSE)
                continue
            for item in self._inbound.feed(data):
                if isinstance(item, Closed):
                    if item.by_peer:
                        self._answer(item)
                        return
                    self.close(item.code, item.reason, hang_up=True, within=_LINGER)
                    discard = True
                elif isinstance(item, (Pinged, Overhead)) or self.closing:
                    verdict = ADMIT if self.limit is None else self.limit.admit(tells=False)
                    if verdict == ADMIT and isinstance(item, Pinged):
                        self.pong(item.payload)
                    elif verdict == END:
                        if self.owner is not None:
                            self.owner.flooded()
                        # Reading and throwing away is cheap; taking it apart is what a flood is for.
                        discard = True
                        break
                else:
                    yield from self._handed_on(item)

    def _handed_on(self, message: str | bytes) -> Iterator[str | bytes]:
        """Give one message, and count neither silence nor what piles up against a peer that waits for its handler."""
        began = time.monotonic()
        self.handling = True
        yield message
        self.last_received = time.monotonic()
        self.handling = False
        if self.limit is not None:
            self.limit.credit(self.last_received - began)

    def _answer(self, closed: Closed) -> None:
        """Return the peer's close frame, which nobody waits behind: it reads no message any more."""
        if self.close(closed.code, closed.reason, drop_queue=True):
            self.flush_close()

    def flush_close(self) -> None:
        """Let the answer to the peer's close frame leave, also where the hub has not opened the connection yet."""
        self.open(None)
        self.flush(time.monotonic() + _ANSWER_WAIT)

    def finish(self) -> None:
        """Close the descriptor, once nobody else can be using it. Reader thread, last."""
        with self.lock:
            self._break_locked("connection lost")
            while self._wakeup is not None and self._writer_active:
                self._wakeup.wait()
            self.closed = True
            self.transport.close()
        _open_connections.pop(id(self), None)

    def release(self) -> None:
        """Give up a connection that has not begun: our descriptor is closed, and the server's own is left as it was."""
        with self.lock:
            self.closing = self.ended = self.closed = True
            self.transport.close()
        _open_connections.pop(id(self), None)

    def orphan(self) -> None:
        """Let go of the parent's connection in a forked child, without a byte or a FIN."""
        self.lock = threading.Lock()
        self.closing = self.ended = self.closed = True
        if not self.transport.borrowed:
            self.transport.forget()


# Every connection whose descriptor is open, for the child of a fork. Each entry is added and removed by one thread.
_open_connections: dict[int, Connection] = {}


def _let_go_in_child() -> None:
    for connection in list(_open_connections.values()):
        connection.orphan()
    _open_connections.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go_in_child)
