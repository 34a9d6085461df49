"""The socket of one client: sends that never wait, reads that do, and an end that others may ask for.

Threads: ``send``, ``close`` under the connection's send lock, by any thread; ``receive`` on the reader thread; ``shutdown``
    and ``wait_writable`` by any thread.
Locks: PlainTransport none of its own; SharedTransport takes the connection's send lock around each use of the socket.
Blocks: ``receive`` until bytes come, ``wait_writable`` until there is room; nothing else.

A send takes about 7 µs, so it keeps the GIL (``ctypes.PyDLL``): giving it up at every send would make the hub wait a switch
interval per client beside a handler that is busy in Python.
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
    """Return libc's ``send`` as a call that keeps the GIL, or None where it is not to be had."""
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
    """Own one socket for one connection; ``borrowed`` means that the server closes the descriptor."""

    __slots__ = ("borrowed", "fd", "sock")

    #: After a send that took nothing, the very same bytes must be offered again (OpenSSL's rule for SSL_write).
    repeats = False

    def __init__(self, sock: socket.socket, *, borrowed: bool = False) -> None:
        self.sock = sock
        self.fd = sock.fileno()
        self.borrowed = borrowed

    def tune(self, write_buffer: int | None) -> None:
        """Send small frames at once, and cap what the kernel keeps for a peer that does not read."""
        with suppress(OSError):
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if write_buffer is not None:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, write_buffer)

    def send(self, data: bytes) -> int:
        """Offer bytes to the kernel and return how many it took, 0 when it would block; OSError when the peer is gone."""
        raise NotImplementedError

    def receive(self, size: int) -> bytes:
        """Wait for at most ``size`` bytes; b"" or OSError is the end."""
        raise NotImplementedError

    def wait_writable(self, timeout: float) -> bool:
        """Wait ``timeout`` seconds for room or the end of the socket; False when neither came."""
        return _wait(self.fd, timeout, write=True)

    def hang_up(self) -> None:
        """Say that nothing more will be sent; what the peer still says can be read."""
        with suppress(OSError):
            socket.socket.shutdown(self.sock, socket.SHUT_WR)

    def shutdown(self) -> None:
        """End both directions, which wakes whoever waits on the socket; the descriptor stays open."""
        with suppress(OSError):
            # Not SSLSocket.shutdown: that would take the TLS object away under a thread that is reading.
            socket.socket.shutdown(self.sock, socket.SHUT_RDWR)

    def close(self) -> None:
        """Give the descriptor back; the number is not used again by this transport."""
        self.fd = -1
        if not self.borrowed:
            self.sock.close()

    def forget(self) -> None:
        """Close a forked child's copy of the descriptor, which leaves the parent's connection alone."""
        self.fd = -1
        with suppress(OSError):
            os.close(self.sock.detach())


class PlainTransport(Transport):
    """Send straight through libc on a TCP or Unix socket, without giving up the GIL."""

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
        if self._read_scheduler is None:
            return self.sock.recv(size)
        # One read for each turn, however much has come: a recv that need not wait gives the GIL up too briefly for others to
        # take it, and starts anew the time after which they may demand it. A few who flood kept the hub from it for 50 ms.
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
    """Use a non-blocking socket under one lock from reader and writer alike: what TLS needs."""

    __slots__ = ("_lock", "_wants_read")

    repeats = True

    def __init__(self, sock: socket.socket, lock: threading.Lock, *, borrowed: bool = False) -> None:
        super().__init__(sock, borrowed=borrowed)
        self._lock = lock
        #: The last send can only go on once the peer has been read from.
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
    """Wait for a descriptor to be ready or to end; False when the time ran out."""
    if fd < 0:
        return True
    if hasattr(select, "poll"):
        poll = select.poll()
        poll.register(fd, select.POLLOUT if write else select.POLLIN)
        return bool(poll.poll(None if timeout is None else timeout * 1000))
    readers, writers = ([], [fd]) if write else ([fd], [])
    return any(select.select(readers, writers, [], timeout))
