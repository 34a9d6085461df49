"""The read scheduler: one thread watches all sockets and wakes their readers, a few at a time.

**Threads**: one, made by ``start``, runs the scheduler; ``wait`` and ``leave`` on reader threads.
**Locks**: ``_lock`` guards the start, the stop and who waits; the epoll object and the wakeups need none.
**Blocks**: ``wait`` until the socket is readable or at its end; the scheduler's thread on epoll and on its permits.

If each reader blocked on its own socket, ten thousand peers that close at once (a proxy restarts) would wake ten thousand
threads, each of which asks for the GIL two hundred times a second: the process then served no client for half a minute. Here at
most ``_PERMITS`` readers are ever awake and waiting for the GIL.
"""

from __future__ import annotations

import ctypes
import os
import select
import threading
from contextlib import ExitStack, suppress

__all__ = ["ReadScheduler"]

# How many readers may be awake that do not run yet.
_PERMITS = 8
_SEMAPHORE_BYTES = 64  # No Linux has a larger sem_t than 32.


class _Wakeup:
    """What one reader sleeps on: a semaphore of libc's, of the kind that processes can share.

    Linux from 6.16 on gives a process with few processors about sixteen hash buckets for all threads that sleep on its private
    locks: with ten thousand sleepers there, each use of the GIL searches through them, and such clients took 22 s to connect.
    Shared semaphores use other buckets: 17 s.
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
        """Sleep, without the GIL, until ``wake`` was called; a signal does not end the sleep."""
        assert self._libc is not None
        while self._libc.sem_wait(self._semaphore):
            pass

    def wake(self) -> None:
        """Wake the reader."""
        assert self._libc is not None
        self._libc.sem_post(self._semaphore)


class ReadScheduler:
    """The scheduler of one hub's readers. ``available`` is False where the system has no epoll."""

    available = hasattr(select, "epoll")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        #: One is taken to wake a reader, and given back by that reader once it runs.
        self._permits = threading.Semaphore(_PERMITS)
        #: Each descriptor that is watched, with the wakeup of its reader.
        self._wakeups: dict[int, _Wakeup] = {}
        self._thread: threading.Thread | None = None
        self._stopping = False
        self._epoll: select.epoll | None = None
        #: Wakes the thread when it is to stop: the end it reads, and the end that others write to.
        self._wakeup_pipe: tuple[int, int] | None = None

    def start(self) -> None:
        """Start the thread, once. Raises OSError or RuntimeError, and may be tried again, where that fails."""
        with self._lock:
            if not self.available or self._thread is not None:
                return
            with ExitStack() as on_failure:
                epoll = select.epoll()
                on_failure.callback(epoll.close)
                pipe = os.pipe()
                for end in pipe:
                    on_failure.callback(os.close, end)
                epoll.register(pipe[0], select.EPOLLIN)
                thread = threading.Thread(target=self._run, args=(epoll, pipe), name="cartows-read-scheduler", daemon=True)
                thread.start()
                on_failure.pop_all()
            self._epoll, self._wakeup_pipe, self._thread = epoll, pipe, thread

    def wait(self, fd: int) -> bool:
        """Sleep until a socket can be read or has ended; False, at once, where no thread would wake the reader."""
        wakeup = self._wakeups.get(fd)
        epoll = self._epoll
        if epoll is None:
            return False
        if wakeup is None:
            with self._lock:
                if self._stopping:
                    return False
                wakeup = self._wakeups[fd] = _Wakeup()
            epoll.register(fd, select.EPOLLIN | select.EPOLLONESHOT)
        else:
            epoll.modify(fd, select.EPOLLIN | select.EPOLLONESHOT)
        wakeup.wait()
        self._permits.release()
        return True

    def leave(self, fd: int) -> None:
        """Forget a descriptor that its reader is about to close."""
        with self._lock:
            epoll = self._epoll
            if self._wakeups.pop(fd, None) is None or epoll is None:
                return
            with suppress(OSError):
                epoll.unregister(fd)
            if self._stopping and not self._wakeups:
                self._wake_thread_locked()

    def stop(self) -> None:
        """End the thread as soon as the last reader has left."""
        with self._lock:
            self._stopping = True
            self._wake_thread_locked()

    def forget(self) -> None:
        """Close a forked child's copies of the descriptors."""
        if self._epoll is not None and self._wakeup_pipe is not None:
            self._epoll.close()
            for fd in self._wakeup_pipe:
                os.close(fd)

    def _wake_thread_locked(self) -> None:
        if self._wakeup_pipe is not None:
            os.write(self._wakeup_pipe[1], b"!")

    def _run(self, epoll: select.epoll, pipe: tuple[int, int]) -> None:
        while True:
            for fd, _ in epoll.poll(maxevents=_PERMITS):
                if fd == pipe[0]:
                    os.read(fd, 4096)
                    continue
                wakeup = self._wakeups.get(fd)
                if wakeup is not None:
                    self._permits.acquire()
                    wakeup.wake()
            with self._lock:
                if self._stopping and not self._wakeups:
                    self._epoll = self._wakeup_pipe = None
                    epoll.close()
                    os.close(pipe[0])
                    os.close(pipe[1])
                    return
