"""The socket of one client: sends that never wait, reads that do, and a shutdown that any thread may ask for.

**Threads**: ``send``, ``close`` under the connection's send lock, by any thread; ``receive`` on the reader thread;
``shutdown`` and ``wait_writable`` by any thread.
**Locks**: PlainTransport none of its own; SharedTransport takes the connection's send lock around each use of the socket.
**Blocks**: ``receive`` until bytes come, ``wait_writable`` until there is room; nothing else.

A send takes about 7 µs, so it keeps the GIL (``ctypes.PyDLL``): if it released the GIL, the hub would wait a switch interval
per client beside a handler that is busy in Python.
"""

from __future__ import annotations

import ctypes
import errno
import os
import select
import socket
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress

from .read_scheduler import ReadScheduler

__all__ = ["PlainTransport", "SharedTransport", "Transport"]

_WOULD_BLOCK = frozenset({errno.EAGAIN, errno.EWOULDBLOCK, errno.EINTR, errno.ENOBUFS})
_DONT_WAIT = getattr(socket, "MSG_DONTWAIT", 0)
_FLAGS = _DONT_WAIT | getattr(socket, "MSG_NOSIGNAL", 0)


def _load_send() -> Callable[[int, bytes, int, int], int] | None:
    """Return libc's ``send`` as a call that keeps the GIL, or None where there is none."""
    if os.name != "posix" or not _DONT_WAIT:
        return None
    try:
        send = ctypes.PyDLL(None, use_errno=True).send
    except (OSError, AttributeError):
        return None
    send.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_int)
    send.restype = ctypes.c_ssize_t
    return send


_libc_send = _load_send()


class Transport:
    """The socket of one connection; ``borrowed`` means that the server closes the descriptor."""

    __slots__ = ("borrowed", "early", "fd", "sock")

    #: After a send that took nothing, the very same bytes must be offered again (OpenSSL's rule for SSL_write).
    repeats = False

    def __init__(self, sock: socket.socket, *, borrowed: bool = False) -> None:
        self.sock = sock
        self.fd = sock.fileno()
        self.borrowed = borrowed
        #: What was read of the socket before, and is returned by ``receive`` first.
        self.early = b""

    def tune(self, write_buffer: int | None) -> None:
        """Send small frames at once, and bound what the kernel buffers for a peer that does not read."""
        with suppress(OSError):
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if write_buffer is not None:
            # The kernel doubles it, for what it keeps beside the bytes, and does not enlarge it any more.
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, write_buffer)

    def send(self, data: bytes) -> int:
        """Offer bytes to the kernel and return how many it took, 0 when it would block; OSError when the peer is gone."""
        raise NotImplementedError

    def receive(self, size: int) -> bytes:
        """Wait for bytes and return ``size`` of them at most; the end is b"" or OSError."""
        raise NotImplementedError

    def _take_early(self, size: int) -> bytes:
        found, self.early = self.early[:size], self.early[size:]
        return found

    def wait_writable(self, timeout: float) -> bool:
        """Wait ``timeout`` seconds at most for room or the end of the socket; False when neither came."""
        return _wait(self.fd, timeout, write=True)

    def hang_up(self) -> None:
        """Send a FIN; what the peer still sends can be read."""
        with suppress(OSError):
            socket.socket.shutdown(self.sock, socket.SHUT_WR)

    def shutdown(self) -> None:
        """End both directions, which wakes the threads that wait on the socket; the descriptor stays open."""
        with suppress(OSError):
            # Not SSLSocket.shutdown: it would remove the TLS object from under a thread that is reading.
            socket.socket.shutdown(self.sock, socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the descriptor unless it is borrowed; this transport does not use its number again."""
        self.fd = -1
        if not self.borrowed:
            self.sock.close()

    def forget(self) -> None:
        """Close a forked child's copy of the descriptor, which leaves the parent's connection as it is."""
        self.fd = -1
        with suppress(OSError):
            os.close(self.sock.detach())


class PlainTransport(Transport):
    """A TCP or Unix socket; sends through libc and keeps the GIL."""

    __slots__ = ("_read_scheduler",)

    def __init__(self, sock: socket.socket, read_scheduler: ReadScheduler | None = None, *, borrowed: bool = False) -> None:
        super().__init__(sock, borrowed=borrowed)
        self._read_scheduler = read_scheduler

    def send(self, data: bytes) -> int:
        """See Transport.send."""
        if _libc_send is None:
            try:
                return self.sock.send(data, _FLAGS)
            except (BlockingIOError, InterruptedError):
                return 0
        taken = _libc_send(self.fd, data, len(data), _FLAGS)
        if taken >= 0:
            return taken
        code = ctypes.get_errno()
        if code in _WOULD_BLOCK:
            return 0
        raise OSError(code, os.strerror(code))

    def receive(self, size: int) -> bytes:
        """See Transport.receive."""
        if self.early:
            return self._take_early(size)
        if self._read_scheduler is None:
            return self.sock.recv(size)
        # One read per wakeup, however much has come: a recv that need not wait releases the GIL too briefly for other threads
        # to take it, and restarts their switch interval. A few clients that flood kept the GIL from the hub for 50 ms.
        while self._read_scheduler.wait(self.fd):
            with suppress(BlockingIOError):
                return self.sock.recv(size, _DONT_WAIT)
        return self.sock.recv(size)

    def close(self) -> None:
        """See Transport.close."""
        if self._read_scheduler is not None:
            self._read_scheduler.leave(self.fd)
        super().close()


class SharedTransport(Transport):
    """A non-blocking socket that reader and writer use under one lock, as TLS needs it."""

    __slots__ = ("_lock", "_wants_read")

    repeats = True

    def __init__(self, sock: socket.socket, lock: threading.Lock, *, borrowed: bool = False) -> None:
        super().__init__(sock, borrowed=borrowed)
        self._lock = lock
        #: The last send can continue only once bytes of the peer have been read.
        self._wants_read = False
        sock.setblocking(False)

    def send(self, data: bytes) -> int:
        """See Transport.send; the caller holds the lock."""
        self._wants_read = False
        try:
            return self.sock.send(data)
        except (ssl.SSLWantWriteError, BlockingIOError):
            return 0
        except ssl.SSLWantReadError:
            self._wants_read = True
            return 0

    def wait_writable(self, timeout: float) -> bool:
        """See Transport.wait_writable."""
        return _wait(self.fd, timeout, write=not self._wants_read)

    def receive(self, size: int) -> bytes:
        """See Transport.receive; takes the lock for each try and waits without it."""
        if self.early:
            return self._take_early(size)
        while True:
            with self._lock:
                if self.fd < 0:
                    return b""
                try:
                    return self.sock.recv(size)
                except (ssl.SSLWantReadError, BlockingIOError):
                    write = False
                except ssl.SSLWantWriteError:
                    write = True
            _wait(self.fd, None, write=write)


def _wait(fd: int, timeout: float | None, *, write: bool) -> bool:
    """Wait until a descriptor is ready or at its end; False when the time ran out."""
    if fd < 0:
        return True
    if hasattr(select, "poll"):
        poll = select.poll()
        poll.register(fd, select.POLLOUT if write else select.POLLIN)
        return bool(poll.poll(None if timeout is None else timeout * 1000))
    readers, writers = ([], [fd]) if write else ([fd], [])
    return any(select.select(readers, writers, [], timeout))
