"""The sending half of a connection: its send queue and the rules of sending. Nothing else writes to the socket.

**Threads**: the hub thread offers batches; the writer thread runs ``write_pump``; any thread may offer one frame or ``flush``.
**Locks**: ``lock``, the send lock, guards every attribute of a Sender. No thread waits while holding it, and all that is taken
within it are leaves: the locks of the history, of the compression of a frame and, at the end, of the read scheduler.
**Blocks**: ``write_pump`` and ``flush`` on room in the socket; nothing else.

The rules of sending:

1. Every send is non-blocking and made under ``lock``; a writer waits for room without it.
2. ``writer_owns`` is set when a send falls short and cleared only when nothing at all is left; meanwhile other threads only
   queue, except that the socket is tried once more before a client is called slow.
3. The rest of a cut frame goes out before anything else; the frames after it stay single messages.
4. A client with a replay is offered no events: the replay's cursor follows the history until it meets the head, under
   ``lock``, and what the cursor has passed is not offered again.
5. Other threads end a connection with ``shutdown``; the reader closes the descriptor, last (see ``connection``).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from ..history.history import History
from ..history.replay import Replay, ReplayRequest
from ..options import Options
from ..rooms import Subscriptions
from ..websocket.close_codes import CloseCode
from ..websocket.frames import Frame
from .batch import Batch
from .outbox import Outbox
from .queue_budget import QueueBudget
from .transport import Transport

__all__ = ["GONE", "OVERFLOW", "QUEUED", "SENT", "WANTS_WRITER", "Sender"]

# The result of an offer.
SENT = 0  # the kernel has all of it
QUEUED = 1  # it is queued for a writer
WANTS_WRITER = 2  # it is queued, and no writer thread has been started yet
OVERFLOW = 3  # the queue is over its bound: the owner decides
GONE = 4  # the connection is closing

# How many bytes a writer joins for one send: about what a socket takes at once.
_CHUNK = 64 * 1024
# OpenSSL must be offered the same bytes again after a short send, so a TLS chunk is one record.
_CHUNK_REPEATED = 16 * 1024

# Makes a message from a position, and from whether events were dropped or merged since the last such message.
BuildPosition = Callable[[int, bool], Frame]


class Sender:
    """Everything queued for one client's socket, and the sending of it.

    ``reply`` is the ``101`` response: it goes out with ``open`` and not before, so that no client is connected that is not
    registered.
    """

    __slots__ = (
        "_deflate",
        "_early_positions",
        "_hangs_up",
        "_opened",
        "_out",
        "_reply",
        "_wakeup",
        "_writer_active",
        "close_code",
        "close_reason",
        "closed",
        "closing",
        "ended",
        "lock",
        "options",
        "transport",
        "writer_owns",
    )

    def __init__(
        self, transport: Transport, lock: threading.Lock, options: Options, reply: bytes, deflate: bool, budget: QueueBudget
    ) -> None:
        self.transport = transport
        self.options = options
        self.lock = lock
        self._deflate = deflate
        self._reply = reply
        self._out = Outbox(options, deflate, self._loss_notice if options.greeting else None, budget)
        #: The messages that ``offer_position`` was asked for before the connection was opened.
        self._early_positions: tuple[BuildPosition, ...] = ()
        #: A FIN follows once all is sent: the peer broke the protocol, and has been sent the reason.
        self._hangs_up = False
        #: Other threads only queue. True from the start: nothing may go out before the reply.
        self.writer_owns = True
        #: A writer thread exists or is being started.
        self._writer_active = False
        self._wakeup: threading.Condition | None = None
        self._opened = False
        #: No further message is taken.
        self.closing = False
        #: No further byte is written.
        self.ended = False
        #: The descriptor is closed.
        self.closed = False
        self.close_code: int | None = None
        self.close_reason = ""

    # Offering -----------------------------------------------------------------------------------------------------

    def offer(self, batch: Batch) -> int:
        """Send a batch, or as much of it as the socket takes, and queue the rest; return SENT to GONE.

        The caller acts on WANTS_WRITER and OVERFLOW. Any thread; never waits.
        """
        with self.lock:
            if self.closing:
                return GONE
            out = self._out
            if batch.last:
                if out.replay is not None:
                    return QUEUED
                if batch.first <= out.seen:
                    unseen = [frame for frame in batch.frames if frame.number > out.seen]
                    if not unseen:
                        return SENT
                    batch = Batch(unseen)
                out.seen = batch.last
            elif out.replay is not None:
                return QUEUED if out.queue_messages(out.replay, batch.frames) else OVERFLOW
            return self._offer_locked(batch)

    def offer_position(self, build: BuildPosition, position: int) -> int:
        """Send a message that carries the client's position at that point of the stream; the caller acts as for ``offer``.

        ``position`` is the hub's. ``build`` makes the message, under the send lock, from the number up to which the client
        will have received everything by then, and from whether events were dropped or merged since the last such message.
        """
        with self.lock:
            if self.closing:
                return GONE
            if not self._opened:
                # A client may send with its handshake, before it is registered, and has no position yet.
                self._early_positions += (build,)
                return QUEUED if len(self._early_positions) <= self.options.send_queue_size else OVERFLOW
            return self._position_locked(build, position)

    def _position_locked(self, build: BuildPosition, position: int) -> int:
        out = self._out
        incomplete, out.queue.incomplete = out.queue.incomplete, False
        if out.replay is not None:
            number = max(position, out.replay.cursor)
            return QUEUED if out.queue_messages(out.replay, (build(number, incomplete),), number) else OVERFLOW
        return self._offer_locked(Batch((build(max(position, out.seen), incomplete),)))

    def change_subscriptions(
        self, history: History, at: int, subscriptions: Subscriptions, frames: Sequence[Frame], request: ReplayRequest | None
    ) -> int:
        """Send events by other subscriptions after the event numbered ``at``, the head of the history.

        The replay that is requested and then ``frames`` go out before them. The caller acts as for ``offer``. Hub thread,
        between two batches.
        """
        with self.lock:
            if self.closing:
                return GONE
            out = self._out
            if out.replay is None:
                if request is None:
                    return self._offer_locked(Batch(frames)) if frames else SENT
                out.replay = Replay(history, at, subscriptions)
            fits = out.change_subscriptions(out.replay, at, subscriptions, frames, request)
            return self._push_locked() if fits else OVERFLOW

    def _offer_locked(self, batch: Batch) -> int:
        if self.writer_owns:
            self._out.queue.extend(batch.frames)
            return self._queued_locked()
        data = batch.wire(self._deflate)
        try:
            taken = self.transport.send(data)
        except OSError as error:
            self._break_locked(str(error))
            return GONE
        if taken == len(data):
            return SENT
        self._out.keep_unsent(batch.frames, taken)
        self.writer_owns = True
        return self._queued_locked()

    def _queued_locked(self) -> int:
        out = self._out
        if out.over():
            # The writer may only be waiting for the GIL: the client is slow if its socket takes nothing more.
            while self._opened and out.pending() and self._write_locked():
                pass
            if self.ended:
                return GONE
            if out.over() and not out.relieve():
                return OVERFLOW
            if not out.pending():
                return SENT
        if not self._opened:
            return QUEUED
        return self._wake_writer_locked()

    def _wake_writer_locked(self) -> int:
        if not self._writer_active:
            return WANTS_WRITER
        if self._wakeup is not None:
            self._wakeup.notify_all()
        return QUEUED

    # Writing ------------------------------------------------------------------------------------------------------

    def _push_locked(self) -> int:
        """Send what is queued, unless a writer owns the socket or the connection has not been opened.

        Sends one page of a replay at most: the writer thread sends the others, so that they do not delay the hub thread.
        """
        if self.ended or not self._opened:
            return GONE if self.ended else QUEUED
        if self.transport.repeats or (self.writer_owns and self._writer_active):
            return self._wake_writer_locked()
        replayed = False
        while self._out.pending() and not self.ended:
            replays = self._out.replay_is_next()
            if (replays and replayed) or not self._write_locked():
                self.writer_owns = True
                return OVERFLOW if self._out.lost else self._wake_writer_locked()
            replayed = replayed or replays
        self.writer_owns = False
        return SENT

    def _write_locked(self) -> bool:
        """Make one send of what is next; False when the socket takes no more."""
        out, whole = self._out, self.transport.repeats
        pieces, queue = out.next(_CHUNK_REPEATED if whole else _CHUNK, self.closing)
        if not pieces:
            # The rest of the replay had no event for this client.
            self.writer_owns = self.writer_owns and (whole or out.pending())
            return not out.lost
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        try:
            taken = self.transport.send(data)
        except OSError as error:
            self._break_locked(str(error))
            return True
        out.remove_sent(pieces, queue, taken, whole)
        if not out.pending():
            self.writer_owns = whole
            if self._hangs_up:
                self.transport.hang_up()
        return taken == len(data)

    def _loss_notice(self, number: int) -> Frame:
        """Return the message that stands for the events, up to a number, that were dropped or merged."""
        raise NotImplementedError

    def claim_writer(self) -> bool:
        """Return whether the caller is to start a thread for ``write_pump``; True once. Any thread."""
        with self.lock:
            if self._writer_active or self.ended:
                return False
            self._writer_active = True
            self._wakeup = self._wakeup or threading.Condition(self.lock)
            return True

    def write_pump(self) -> None:
        """Write what other threads had to leave, until the connection ends. Writer thread."""
        try:
            while self._write_more():
                pass
        finally:
            self.unclaim_writer()

    def _write_more(self) -> bool:
        with self.lock:
            wakeup = self._wakeup
            while wakeup is not None and not self.ended and not self._out.pending():
                wakeup.wait()
            if self.ended:
                return False
            moved, lost = self._write_locked(), self._out.lost
        if lost:
            self.overrun()
        elif not moved and not self.transport.wait_writable(self.options.write_wait) and not self._takes_more():
            self.abort(CloseCode.SLOW_CONSUMER, f"no data accepted for {self.options.write_wait:g} s")
        return True

    def overrun(self) -> None:
        """Act on a replay whose next events the history has dropped; called with no lock held."""
        raise NotImplementedError

    def _takes_more(self) -> bool:
        """Try the socket itself: poll reports room only when a large part of the buffer is free."""
        with self.lock:
            before = self._out.size()
            return self._out.pending() and (self._write_locked() or self._out.size() != before)

    def unclaim_writer(self) -> None:
        """Note that the writer thread has ended, or could not be started."""
        with self.lock:
            self._writer_active = False
            if self._wakeup is not None:
                self._wakeup.notify_all()

    def flush(self, deadline: float) -> bool:
        """Write what is queued until the monotonic ``deadline``; False when something is left. Any thread."""
        while True:
            with self.lock:
                if self.ended or not self._out.pending():
                    return True
                if not self._opened:
                    return False
                replays = self._out.replay_is_next()
                moved, lost = self._write_locked(), self._out.lost
            if lost:
                self.overrun()
            elif replays and time.monotonic() >= deadline:
                return False
            elif not moved:
                left = deadline - time.monotonic()
                if left <= 0 or not self.transport.wait_writable(left):
                    return False

    def replaying(self) -> bool:
        """Return whether a replay is still going on."""
        return self._out.replay is not None

    # Ending -----------------------------------------------------------------------------------------------------------

    def abort(self, code: int = CloseCode.ABNORMAL, reason: str = "") -> None:
        """End the connection at once, in the middle of a frame if need be. Any thread; never waits."""
        with self.lock:
            if not self.closing:
                self.close_code, self.close_reason = code, reason
            self._break_locked(reason)

    def _break_locked(self, reason: str) -> None:
        if self.close_code is None:
            self.close_code, self.close_reason = CloseCode.ABNORMAL, reason
        self.closing = self.ended = True
        self._out.clear()
        if not self.closed:
            self.transport.shutdown()
        if self._wakeup is not None:
            self._wakeup.notify_all()
