"""Let readers through a few at a time: one thread watches all sockets, and a reader sleeps until it is given its turn.

Threads: one, made by ``start``, runs the read_scheduler; ``wait`` and ``leave`` on reader threads.
Locks: ``_lock`` guards who is inside; the epoll object and the turns need none.
Blocks: ``wait`` until the socket is readable or has ended; the read_scheduler's thread on epoll and on its slots.

Were each reader to block on its own socket, ten thousand peers that go at once (a proxy restarts) would wake ten thousand
threads, and every thread that waits for the GIL asks for it two hundred times a second: measured, the process thrashed for half
a minute and served nobody. Here no more than ``_SLOTS`` are ever awake and waiting for the GIL.
"""

from __future__ import annotations

import ctypes
import os
import select
import threading
from contextlib import ExitStack, suppress

__all__ = ["ReadScheduler"]

# Readers that have been given their turn and have not yet taken it.
_SLOTS = 8
_SEMAPHORE_BYTES = 64  # No Linux has a larger sem_t than 32.


class _Turn:
    """What one reader sleeps on: a semaphore of libc's, of the kind that processes could share.

    Since 6.16 Linux gives a process with few processors some sixteen buckets for all threads that sleep on its private locks,
    and ten thousand sleepers there make every use of the GIL search through them. Shared semaphores sleep elsewhere: measured,
    10,000 clients connected in 17 s where they took 22 s, and were gone in 2.8 s where that took 5.4 s.
    """

    __slots__ = ("_semaphore",)

    _libc: ctypes.CDLL | None = ctypes.CDLL(None, use_errno=True) if hasattr(select, "epoll") else None

    def __init__(self) -> None:
        assert self._libc is not None
        self._semaphore = ctypes.create_string_buffer(_SEMAPHORE_BYTES)
        if self._libc.sem_init(self._semaphore, 1, 0):
            code = ctypes.get_errno()
            raise OSError(code, f"making a semaphore for a reader failed: {os.strerror(code)}")

    def wait(self) -> None:
        """Sleep, without the GIL, until ``give`` was called; a signal that interrupts it is nothing to us."""
        assert self._libc is not None
        while self._libc.sem_wait(self._semaphore):
            pass

    def give(self) -> None:
        """Wake the reader."""
        assert self._libc is not None
        self._libc.sem_post(self._semaphore)


class ReadScheduler:
    """Watch the sockets of one hub's readers. ``available`` is False where the system has no epoll."""

    available = hasattr(select, "epoll")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._slots = threading.Semaphore(_SLOTS)
        #: Each descriptor inside, with what its reader sleeps on.
        self._turns: dict[int, _Turn] = {}
        self._thread: threading.Thread | None = None
        self._stopping = False
        self._epoll: select.epoll | None = None
        #: A pipe that wakes the thread when it is to stop: where it listens, and where others ring.
        self._bell: tuple[int, int] | None = None

    def start(self) -> None:
        """Start the thread, once. Raises OSError or RuntimeError, and may be tried again, where that fails."""
        with self._lock:
            if not self.available or self._thread is not None:
                return
            with ExitStack() as on_failure:
                epoll = select.epoll()
                on_failure.callback(epoll.close)
                bell = os.pipe()
                for end in bell:
                    on_failure.callback(os.close, end)
                epoll.register(bell[0], select.EPOLLIN)
                thread = threading.Thread(target=self._run, args=(epoll, bell), name="cartows-read_scheduler", daemon=True)
                thread.start()
                on_failure.pop_all()
            self._epoll, self._bell, self._thread = epoll, bell, thread

    def wait(self, fd: int) -> bool:
        """Sleep until a socket can be read or has ended; False, at once, where there is nobody to wake the reader."""
        turn = self._turns.get(fd)
        epoll = self._epoll
        if epoll is None:
            return False
        if turn is None:
            with self._lock:
                if self._stopping:
                    return False
                turn = self._turns[fd] = _Turn()
            epoll.register(fd, select.EPOLLIN | select.EPOLLONESHOT)
        else:
            epoll.modify(fd, select.EPOLLIN | select.EPOLLONESHOT)
        turn.wait()
        self._slots.release()
        return True

    def leave(self, fd: int) -> None:
        """Forget a descriptor that its reader is about to close."""
        with self._lock:
            epoll = self._epoll
            if self._turns.pop(fd, None) is None or epoll is None:
                return
            with suppress(OSError):
                epoll.unregister(fd)
            if self._stopping and not self._turns:
                self._ring_locked()

    def stop(self) -> None:
        """End the thread as soon as the last reader has left."""
        with self._lock:
            self._stopping = True
            self._ring_locked()

    def forget(self) -> None:
        """Close a forked child's copies of the descriptors."""
        if self._epoll is not None and self._bell is not None:
            self._epoll.close()
            for fd in self._bell:
                os.close(fd)

    def _ring_locked(self) -> None:
        if self._bell is not None:
            os.write(self._bell[1], b"!")

    def _run(self, epoll: select.epoll, bell: tuple[int, int]) -> None:
        while True:
            for fd, _ in epoll.poll(maxevents=_SLOTS):
                if fd == bell[0]:
                    os.read(fd, 4096)
                    continue
                turn = self._turns.get(fd)
                if turn is not None:
                    self._slots.acquire()
                    turn.give()
            with self._lock:
                if self._stopping and not self._turns:
                    self._epoll = self._bell = None
                    epoll.close()
                    os.close(bell[0])
                    os.close(bell[1])
                    return
