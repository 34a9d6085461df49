"""The sending half of a connection: its send queue and the rules of sending. Nothing else writes to the socket.

Threads: the hub thread offers batches; the writer thread runs ``write_pump``; any thread may offer one frame or ``flush``.
Locks: ``lock``, the send lock, guards every attribute of a Sender. Nobody waits while holding it, and nobody takes another lock
    of cartows while holding it.
Blocks: ``write_pump`` and ``flush`` on room in the socket; nothing else.

The rules of sending:

1. Every send is non-blocking and made under ``lock``; a writer waits for room without it.
2. ``writer_owns`` is set when a send falls short and cleared only when nothing at all is left; meanwhile others only queue,
   save that the socket is tried once more before a client is called slow.
3. The rest of a cut frame goes out before anything else does; what stands behind it is kept as single messages.
4. Others end a connection with ``shutdown``; the reader closes the descriptor, last (see ``connection``).
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from itertools import islice

from .frames import Frame, ping_frame, pong_frame
from .options import Options
from .transport import Transport

__all__ = ["GONE", "OVERFLOW", "QUEUED", "SENT", "WANTS_WRITER", "Batch", "Sender"]

# What became of an offer.
SENT = 0  # the kernel has all of it
QUEUED = 1  # it waits, and a writer will come to it
WANTS_WRITER = 2  # it waits, and no writer thread has been started yet
OVERFLOW = 3  # the queue is over its bound: the owner's policy decides
GONE = 4  # the connection takes nothing any more

# How much a writer joins for one send: about what a socket takes at once.
_CHUNK = 64 * 1024
# OpenSSL must be offered the same bytes again, so a TLS chunk is one record.
_CHUNK_REPEATED = 16 * 1024


class Batch:
    """Join the frames of one send, once for all clients that hear the same."""

    __slots__ = ("_deflated", "_plain", "compressible", "frames")

    def __init__(self, frames: Sequence[Frame]) -> None:
        self.frames = frames
        self.compressible = any(frame.compressible for frame in frames)
        self._plain = b""
        self._deflated = b""

    def wire(self, deflate: bool) -> bytes:
        """Return all frames as one run of bytes."""
        if deflate and self.compressible:
            if not self._deflated:
                self._deflated = b"".join([frame.wire(True) for frame in self.frames])
            return self._deflated
        if not self._plain:
            self._plain = b"".join([frame.plain for frame in self.frames])
        return self._plain


class Sender:
    """Hold what waits for one client's socket, and send it.

    ``reply`` is the ``101`` response: it goes out with ``open`` and not before, so that nobody is connected who is not
    registered.
    """

    __slots__ = (
        "_deflate",
        "_farewell",
        "_hangs_up",
        "_opened",
        "_ping",
        "_pong",
        "_queue",
        "_queued_bytes",
        "_reply",
        "_rest",
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

    def __init__(self, transport: Transport, lock: threading.Lock, options: Options, reply: bytes, deflate: bool) -> None:
        self.transport = transport
        self.options = options
        self.lock = lock
        self._deflate = deflate
        self._reply = reply
        #: The rest of a cut frame; before anything else.
        self._rest = b""
        #: Pings are answered with the newest pong only (RFC 6455, section 5.5.3), so a flood of them cannot pile up.
        self._pong: bytes | None = None
        self._ping = False
        self._queue: deque[Frame] = deque()
        self._queued_bytes = 0
        #: Advice and close frame; behind everything.
        self._farewell = b""
        #: Once all is sent, so is a FIN: what was wrong with the peer's bytes has been said.
        self._hangs_up = False
        #: Others only queue. So it begins: nothing may go out before the reply.
        self.writer_owns = True
        #: A writer thread exists or is being started.
        self._writer_active = False
        self._wakeup: threading.Condition | None = None
        self._opened = False
        #: No further message is taken.
        self.closing = False
        #: No further byte is written.
        self.ended = False
        #: The descriptor is gone.
        self.closed = False
        self.close_code: int | None = None
        self.close_reason = ""

    # Offering -----------------------------------------------------------------------------------------------------

    def offer(self, batch: Batch) -> int:
        """Send a batch, or as much of it as the socket takes, and queue the rest; returns SENT … GONE.

        The caller acts on WANTS_WRITER and OVERFLOW. Any thread; never waits.
        """
        with self.lock:
            if self.closing:
                return GONE
            if self.writer_owns:
                return self._enqueue_locked(batch.frames)
            data = batch.wire(self._deflate)
            try:
                taken = self.transport.send(data)
            except OSError as error:
                self._break_locked(str(error))
                return GONE
            if taken == len(data):
                return SENT
            return self._cut_locked(batch.frames, taken)

    def _enqueue_locked(self, frames: Sequence[Frame]) -> int:
        deflate = self._deflate
        self._queue.extend(frames)
        self._queued_bytes += sum([len(frame.wire(deflate)) for frame in frames])
        return self._queued_locked()

    def _cut_locked(self, frames: Sequence[Frame], taken: int) -> int:
        """Keep the cut frame's rest as bytes and everything behind it as single events again."""
        deflate = self._deflate
        for index, frame in enumerate(frames):
            wire = frame.wire(deflate)
            if taken < len(wire):
                if taken:
                    self._rest = wire[taken:]
                    index += 1
                self.writer_owns = True
                return self._enqueue_locked(frames[index:])
            taken -= len(wire)
        return SENT

    def _queued_locked(self) -> int:
        if self._over_locked():
            # Its writer may only be waiting for the GIL: what counts is whether the socket takes more.
            while self._opened and self._pending_locked() and self._write_locked():
                pass
            if self.ended:
                return GONE
            if self._over_locked():
                return OVERFLOW
            if not self._pending_locked():
                return SENT
        if not self._opened:
            return QUEUED
        return self._call_writer_locked()

    def _over_locked(self) -> bool:
        options = self.options
        waiting = self._queued_bytes + len(self._rest)
        return len(self._queue) > options.send_queue or waiting > options.send_queue_bytes

    def _call_writer_locked(self) -> int:
        if not self._writer_active:
            return WANTS_WRITER
        if self._wakeup is not None:
            self._wakeup.notify_all()
        return QUEUED

    def _pending_locked(self) -> bool:
        return bool(self._rest or self._queue or self._farewell or self._ping or self._pong is not None)

    # Writing ------------------------------------------------------------------------------------------------------

    def _push_locked(self) -> int:
        """Send what waits, unless a writer owns the socket or the connection has not been opened."""
        if self.ended or not self._opened:
            return GONE if self.ended else QUEUED
        if self.transport.repeats or (self.writer_owns and self._writer_active):
            return self._call_writer_locked()
        while self._pending_locked() and not self.ended:
            if not self._write_locked():
                self.writer_owns = True
                return self._call_writer_locked()
        self.writer_owns = False
        return SENT

    def _write_locked(self) -> bool:
        """Make one send of what is next in line; False when the socket takes no more."""
        popped = 0
        if self._rest:
            pieces = [self._rest]
        elif self._pong is not None or self._ping:
            pieces = [pong_frame(self._pong)] if self._pong is not None else []
            pieces += [ping_frame()] if self._ping else []
            self._pong, self._ping = None, False
        elif self._queue:
            pieces = self._next_frames_locked()
            popped = len(pieces)
        else:
            pieces = [self._farewell]
            self._farewell = b""
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        try:
            taken = self.transport.send(data)
        except OSError as error:
            self._break_locked(str(error))
            return True
        if taken == len(data):
            self._rest = b""
            self._pop_locked(popped)
        elif not popped or self.transport.repeats:
            self._rest = data[taken:]
            self._pop_locked(popped)
        else:
            self._rest = self._pop_sent_locked(pieces, taken)
        if not self._pending_locked():
            self.writer_owns = self.transport.repeats
            if self._hangs_up:
                self.transport.hang_up()
        return taken == len(data)

    def _next_frames_locked(self) -> list[bytes]:
        room = _CHUNK_REPEATED if self.transport.repeats else _CHUNK
        pieces: list[bytes] = []
        for frame in islice(self._queue, 256):
            wire = frame.wire(self._deflate)
            room -= len(wire)
            if room < 0 and pieces:
                break
            pieces.append(wire)
        return pieces

    def _pop_locked(self, count: int) -> None:
        for _ in range(count):
            self._queued_bytes -= len(self._queue.popleft().wire(self._deflate))

    def _pop_sent_locked(self, pieces: list[bytes], taken: int) -> bytes:
        """Drop the frames that went out whole and return the rest of the one that was cut."""
        for piece in pieces:
            if taken <= 0:
                return b""
            self._pop_locked(1)
            if taken < len(piece):
                return piece[taken:]
            taken -= len(piece)
        return b""

    def claim_writer(self) -> bool:
        """Return whether the caller shall start a thread for ``write_pump``; True once. Any thread."""
        with self.lock:
            if self._writer_active or self.ended:
                return False
            self._writer_active = True
            self._wakeup = self._wakeup or threading.Condition(self.lock)
            return True

    def unclaim_writer(self) -> None:
        """Take back a claim whose thread could not be started."""
        self._writer_over()

    def write_pump(self) -> None:
        """Write what others had to leave, until the connection ends. Writer thread."""
        try:
            while self._write_more():
                pass
        finally:
            self._writer_over()

    def _write_more(self) -> bool:
        with self.lock:
            wakeup = self._wakeup
            while wakeup is not None and not self.ended and not self._pending_locked():
                wakeup.wait()
            if self.ended:
                return False
            moved = self._write_locked()
        if not moved and not self.transport.wait_writable(self.options.write_wait) and not self._takes_any():
            self.abort(3008, f"took nothing for {self.options.write_wait:g} s")
        return True

    def _takes_any(self) -> bool:
        """Try the socket itself: poll speaks of room only when a good part of the buffer is free."""
        with self.lock:
            before = len(self._queue), len(self._rest)
            return self._pending_locked() and (self._write_locked() or (len(self._queue), len(self._rest)) != before)

    def _writer_over(self) -> None:
        with self.lock:
            self._writer_active = False
            if self._wakeup is not None:
                self._wakeup.notify_all()

    def flush(self, deadline: float) -> bool:
        """Write what is pending until the monotonic ``deadline``; False when something is left. Any thread."""
        while True:
            with self.lock:
                if self.ended or not self._pending_locked():
                    return True
                if not self._opened:
                    return False
                moved = self._write_locked()
            if not moved:
                left = deadline - time.monotonic()
                if left <= 0 or not self.transport.wait_writable(left):
                    return False

    def backlog(self) -> tuple[int, int]:
        """Return how many messages and bytes wait in the send queue."""
        with self.lock:
            return len(self._queue), self._queued_bytes + len(self._rest)

    # Ending -----------------------------------------------------------------------------------------------------------

    def abort(self, code: int = 1006, reason: str = "") -> None:
        """End the connection at once, in the middle of a frame if need be. Any thread; never waits."""
        with self.lock:
            if not self.closing:
                self.close_code, self.close_reason = code, reason
            self._break_locked(reason)

    def _drop_locked(self) -> None:
        self._queue.clear()
        self._queued_bytes = 0
        self._ping, self._pong = False, None

    def _break_locked(self, reason: str) -> None:
        if self.close_code is None:
            self.close_code, self.close_reason = 1006, reason
        self.closing = self.ended = True
        self._drop_locked()
        self._rest = self._farewell = b""
        if not self.closed:
            self.transport.shutdown()
        if self._wakeup is not None:
            self._wakeup.notify_all()
