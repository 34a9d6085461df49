"""Whether a hub runs in this process, on which thread, and whether it was shut down.

**Threads**: any.
**Locks**: ``lock`` guards all of it. The hub's helpers start while it is held.
**Blocks**: ``run`` for as long as the hub runs; ``shut_down`` until the shutdown is over, its timeout at most.
"""

from __future__ import annotations

import atexit
import threading
import weakref
from collections.abc import Callable

from ..errors import CartowsError, HubClosed

__all__ = ["Lifecycle"]

# How long the shutdown at interpreter exit may take, in seconds: gunicorn's worker has spent up to a second by then.
_EXIT_TIMEOUT = 1.5


class Lifecycle:
    """The thread of one hub in one process, from its first use to its shutdown.

    ``shutdown`` is the hub's method: it is called when the interpreter exits, unless the hub is gone by then.
    """

    def __init__(self, shutdown: Callable[[float], None]) -> None:
        self._shutdown = weakref.WeakMethod(shutdown)
        self._exit_handled = False
        self.lock = threading.Lock()
        #: The hub thread, None until the first use.
        self.thread: threading.Thread | None = None
        self.closed = False
        self._over = threading.Event()

    def check_open(self) -> None:
        """Raise HubClosed after a shutdown."""
        if self.closed:
            raise HubClosed("The hub was shut down and broadcasts nothing any more; create a new Hub, or broadcast earlier")

    def start(self, loop: Callable[[], None], start_helpers: Callable[[], None]) -> None:
        """Start the hub thread, unless there is one; see ``Hub.start``."""
        with self.lock:
            self.check_open()
            if self.thread is None:
                # A daemon, since the exit handlers that shut it down run after other threads have been waited for.
                thread = threading.Thread(target=loop, name="cartows-hub", daemon=True)
                try:
                    self._start_helpers_locked(start_helpers)
                    thread.start()
                except RuntimeError as error:
                    raise CartowsError(f"The hub cannot run: the process has no thread left for it ({error})") from error
                self.thread = thread

    def run(self, loop: Callable[[], None], start_helpers: Callable[[], None]) -> None:
        """Make the calling thread the hub thread; see ``Hub.run``."""
        with self.lock:
            self.check_open()
            if self.thread is not None:
                raise RuntimeError(f"The hub runs already, in thread {self.thread.name!r}: its first use started it")
            self.thread = threading.current_thread()
            self._start_helpers_locked(start_helpers)
        loop()

    def _start_helpers_locked(self, start_helpers: Callable[[], None]) -> None:
        if not self._exit_handled:
            self._exit_handled = True
            atexit.register(_shut_down_at_exit, self._shutdown)
        start_helpers()

    def shut_down(self, sequence: Callable[[threading.Thread | None, float], None], timeout: float) -> None:
        """Call ``sequence`` with the hub thread and the timeout, once; wait for that where another thread has begun it."""
        with self.lock:
            first, self.closed = not self.closed, True
            thread = self.thread
        if not first:
            # The end of the process must not interrupt another thread's shutdown.
            self._over.wait(timeout)
            return
        try:
            sequence(thread, timeout)
        finally:
            self._over.set()


def _shut_down_at_exit(reference: weakref.WeakMethod[Callable[[float], None]]) -> None:
    shutdown = reference()
    if shutdown is not None:
        shutdown(_EXIT_TIMEOUT)
