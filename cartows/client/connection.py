"""One client's connection: a Sender, the messages that the peer sends, and the ways in which the connection ends.

**Threads**: the reader thread runs ``messages`` and ``finish``; the hub thread ``open``; any thread may ping, close or abort.
**Locks**: the send lock (see ``sender``). The owner is called once it is released.
**Blocks**: ``messages`` on the socket, ``finish`` on the writer's end; nothing else.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from typing import Protocol

from ..history.replay import Replay
from ..options import Options
from ..websocket.close_codes import CloseCode, is_final
from ..websocket.frames import Frame, close_frame
from ..websocket.parser import Closed, Extensions, Inbound, Overhead, Pinged
from .advice import FLOODING_RETRY_MS, advise, restart_delay
from .queue_budget import UNLIMITED, QueueBudget
from .rate_limit import ADMIT, END, RateLimit, limit_of
from .sender import OVERFLOW, WANTS_WRITER, Sender
from .transport import Transport

__all__ = ["Connection", "Owner"]

# How many seconds the peer has to read that the server failed.
ERROR_WAIT = 1.0

# How many seconds the answer to the peer's close frame has to be sent.
_ANSWER_WAIT = 1.0

# How many seconds a client that sent too many messages has to read why it is closed.
_FLOODING_WAIT = 1.0

# How many seconds a peer that broke the protocol is still read from, so that it can read why (RFC 6455, section 7.1.7).
_LINGER = 2.0

# What is discarded is read in pieces of this size with pauses in seconds between them: a flood must cost the peer, not us.
_DISCARD_SIZE = 64 * 1024
_DISCARD_PAUSE = 0.01


class Owner(Protocol):
    """What a connection cannot do by itself; called with no lock held unless stated."""

    def start_writer(self) -> None:
        """Start a thread for ``write_pump``."""

    def closing_begun(self, within: float) -> None:
        """Abort the connection unless it has ended within so many seconds."""

    def overflow(self) -> None:
        """Disconnect a client whose send queue, or replay, is over its bound."""

    def incomplete_frame(self, number: int) -> Frame:
        """Return the message that stands for lost events up to a number. The send lock is held, so take none."""


class Connection(Sender):
    """A transport, the client's send queue and its inbound side. ``budget`` counts what waits for all clients."""

    __slots__ = (
        "__weakref__",
        "_budget",
        "_inbound",
        "_limit",
        "_unfinished",
        "handling",
        "last_received",
        "message_size",
        "owner",
    )

    def __init__(
        self,
        transport: Transport,
        lock: threading.Lock,
        options: Options,
        reply: bytes = b"",
        budget: QueueBudget = UNLIMITED,
    ) -> None:
        extensions = Extensions.agreed(reply)
        super().__init__(transport, lock, options, reply, extensions.reads_deflate, budget)
        self.owner: Owner | None = None
        # The reader thread's, except that the heartbeat reads the first two.
        #: When bytes last came, by the monotonic clock.
        self.last_received = time.monotonic()
        #: A message is being handled: the peer's silence does not count.
        self.handling = False
        self._inbound = Inbound(extensions, options.max_message_size)
        self._budget = budget
        #: The bytes of an unfinished message that the budget counts.
        self._unfinished = 0
        # Made with the first message: most clients send nothing.
        self._limit: RateLimit | None = None
        #: The bytes of the message that is being handled, as they count against the limit.
        self.message_size = 0
        _open_connections[id(self)] = self

    # Opening and control frames -----------------------------------------------------------------------------------

    def open(self, greeting: Frame | None, seen: int = 0, replay: Replay | None = None) -> None:
        """Send the handshake's reply and the greeting, ahead of everything queued, then a replay. Hub thread.

        Events up to number ``seen`` are not for this client: it has received them, or subscribed after them. Does nothing when
        the connection is open: a peer that closed before the hub opened it has been answered.
        """
        with self.lock:
            if self._opened:
                return
            self._opened = True
            self._out.seen, self._out.replay = seen, replay
            self._out.rest, self._reply = self._reply + (greeting.plain if greeting is not None else b""), b""
            for build in () if self.closing else self._early_positions:
                self._position_locked(build, seen)
            self._early_positions = ()
            outcome = self._push_locked()
        self._act_on(outcome)

    def ping(self) -> None:
        """Send a ping, now or once the rest of a frame that was cut is sent."""
        with self.lock:
            self._out.ping = not self.closing
            outcome = self._push_locked()
        self._act_on(outcome)

    def pong(self, payload: bytes) -> None:
        """Answer a ping."""
        with self.lock:
            if not self.closing:
                self._out.pong = payload
            outcome = self._push_locked()
        self._act_on(outcome)

    def share(self) -> float:
        """Return this client's part of the bytes that wait for all clients, or have come of their unfinished messages."""
        with self.lock:
            return self._out.share() + self._unfinished

    def _act_on(self, outcome: int) -> None:
        if outcome == WANTS_WRITER and self.owner is not None:
            self.owner.start_writer()
        elif outcome == OVERFLOW:
            self.overrun()

    def overrun(self) -> None:
        """See Sender.overrun."""
        if self.owner is not None:
            self.owner.overflow()

    def _loss_notice(self, number: int) -> Frame:
        """See Sender._loss_notice."""
        assert self.owner is not None
        return self.owner.incomplete_frame(number)

    # Closing ------------------------------------------------------------------------------------------------------

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
        """Send the closing frames, the advice and then a close frame, after what is queued or, with ``drop_queue``, instead.

        With ``hang_up`` a FIN follows. The peer has ``within`` seconds (default: ``write_wait``) to answer before the
        connection is aborted. Returns False when the connection was closing already. Any thread; never waits. Raises
        ValueError for a code that no close frame can carry.
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
        self._act_on(outcome)
        if self.owner is not None:
            self.owner.closing_begun(self.options.write_wait if within is None else within)
        return True

    def disconnect(self, code: int, reason: str, *, retry_after_ms: int = 0, within: float | None = None) -> bool:
        """Advise the client whether to reconnect, and close ahead of everything queued. See ``close``."""
        advice = advise(self.options, code, reason, reconnect=not is_final(code), retry_after_ms=retry_after_ms)
        return self.close(code, reason, advice=advice, drop_queue=True, within=within)

    def close_for_restart(self, within: float | None = None) -> None:
        """Advise the client when to reconnect, and close with 1012 after everything queued. See ``close``."""
        code, reason = CloseCode.RESTART, "service restart"
        advice = advise(self.options, code, reason, reconnect=True, retry_after_ms=restart_delay())
        self.close(code, reason, advice=advice, within=within)

    def close_flooded(self) -> None:
        """Disconnect a client that keeps sending more than its rate limit."""
        self.disconnect(
            CloseCode.TOO_MANY_MESSAGES, "too many messages", retry_after_ms=FLOODING_RETRY_MS, within=_FLOODING_WAIT
        )

    def close_on_error(self) -> None:
        """Close with 1011 after an error of the server's own."""
        try:
            self.close(CloseCode.SERVER_ERROR, "server error", drop_queue=True, within=ERROR_WAIT)
        except Exception:
            self.abort(CloseCode.SERVER_ERROR, "server error")

    def close_on_exception(self, error: BaseException) -> bool:
        """Close with 1011 after an error, and wait for a moment until that is sent. Reader thread.

        A SystemExit or the like in the main thread ends the process, most often from a signal: returns False then, and closes
        with 1012. In any other thread it is an error of the app's own.
        """
        failed = isinstance(error, Exception) or threading.current_thread() is not threading.main_thread()
        if failed:
            self.close_on_error()
        else:
            self.close_for_restart(ERROR_WAIT)
        self.flush_close()
        return failed

    # Reading ------------------------------------------------------------------------------------------------------

    @property
    def limit(self) -> RateLimit | None:
        """How much the peer may send; None for any amount. Reader thread."""
        if self._limit is None:
            self._limit = limit_of(self.options)
        return self._limit

    def messages(self) -> Iterator[str | bytes]:
        """Yield each whole message until the connection ends, answering pings and the close frame. Reader thread."""
        discard = False
        while True:
            try:
                data = self.transport.receive(_DISCARD_SIZE if discard else self.options.read_buffer)
            except OSError:
                data = b""
            if not data:
                return
            self.last_received = time.monotonic()
            if discard:
                # Closing with bytes unread would reset the connection before the peer reads why it is closed.
                time.sleep(_DISCARD_PAUSE)
                continue
            for item in self._inbound.feed(data):
                if isinstance(item, Closed):
                    if item.by_peer:
                        self._answer_close(item)
                        return
                    self.close(item.code, item.reason, hang_up=True, within=_LINGER)
                    discard = True
                elif isinstance(item, (Pinged, Overhead)) or self.closing:
                    verdict = ADMIT if self.limit is None else self.limit.admit(notify=False)
                    if verdict == ADMIT and isinstance(item, Pinged):
                        self.pong(item.payload)
                    elif verdict == END:
                        self.close_flooded()
                        # Reading and discarding is cheap; parsing is what a flood is meant to make us do.
                        discard = True
                        break
                else:
                    yield from self._handed_on(item, self._inbound.cost)
            if self._count_unfinished(self._inbound.unfinished):
                self.overrun()
                discard = True

    def _count_unfinished(self, count: int) -> bool:
        """Count what the peer has sent of a message that has not ended; return whether that is too much. Reader thread."""
        grown, self._unfinished = count - self._unfinished, count
        if grown:
            self._budget.change(grown)
        return grown > 0 and self._budget.exhausted

    def _handed_on(self, message: str | bytes, size: int) -> Iterator[str | bytes]:
        """Yield one message of so many bytes. What the peer does, or does not do, while its handler runs is not counted."""
        began = time.monotonic()
        self.handling = True
        self.message_size = size
        yield message
        self.last_received = time.monotonic()
        self.handling = False
        if self.limit is not None:
            self.limit.credit(self.last_received - began)

    def _answer_close(self, closed: Closed) -> None:
        """Answer the peer's close frame, ahead of everything queued: the peer reads no message any more."""
        if self.close(closed.code, closed.reason, drop_queue=True):
            self.flush_close()

    def flush_close(self) -> None:
        """Send the answer to the peer's close frame, also where the hub has not opened the connection yet."""
        self.open(None)
        self.flush(time.monotonic() + _ANSWER_WAIT)

    # Freeing the descriptor ---------------------------------------------------------------------------------------

    def finish(self) -> None:
        """Close the descriptor, once no other thread can be using it. Reader thread, last."""
        with self.lock:
            self._break_locked("connection lost")
            while self._wakeup is not None and self._writer_active:
                self._wakeup.wait()
            self.closed = True
            self.transport.close()
        self._count_unfinished(0)
        _open_connections.pop(id(self), None)

    def release(self) -> None:
        """Give up a connection that has not begun: close our descriptor, and leave the server's own as it was."""
        with self.lock:
            self.closing = self.ended = self.closed = True
            self._out.clear()
            self.transport.close()
        _open_connections.pop(id(self), None)

    def orphan(self) -> None:
        """Give up the parent's connection in a forked child, without sending a byte or a FIN."""
        self.lock = threading.Lock()
        self.closing = self.ended = self.closed = True
        if not self.transport.borrowed:
            self.transport.forget()


# Every connection whose descriptor is open, for the child of a fork. Each entry is added and removed by one thread.
_open_connections: dict[int, Connection] = {}


def _orphan_in_child() -> None:
    for connection in list(_open_connections.values()):
        connection.orphan()
    _open_connections.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_orphan_in_child)
