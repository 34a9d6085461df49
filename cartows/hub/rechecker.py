"""Ask, every so often, whether those who are connected may stay.

Threads: one, started by the first client that is to be asked about; ``add`` and ``stop`` on any thread.
Locks: ``_lock`` guards the schedule. It is a leaf: nothing else is taken while it is held, and the app is not called.
Blocks: the rechecker's thread on its timer and on the app's lookups, which therefore hold up nothing but one another.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
import time
import weakref

from ..client.client import Client

__all__ = ["Rechecker"]


class Rechecker:
    """Look again at the credentials of the clients of one hub."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self._lock = threading.Lock()
        self._wakeup = threading.Condition(self._lock)
        self._thread: threading.Thread | None = None
        self._stopped = False
        self._serial = itertools.count()
        # A client that has gone leaves its entry until its time comes, not itself.
        self._heap: list[tuple[float, int, float, weakref.ref[Client]]] = []

    def add(self, client: Client, every: float) -> None:
        """Ask about a client every so many seconds from now on. Raises RuntimeError when there is no thread to be had."""
        with self._lock:
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="cartows-rechecker", daemon=True)
                thread.start()
                self._thread = thread
            self._push_locked(every, weakref.ref(client))

    def stop(self, timeout: float) -> None:
        """End the thread and wait for it ``timeout`` seconds at most: a lookup may take longer."""
        with self._lock:
            self._stopped = True
            self._wakeup.notify_all()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(max(0.0, timeout))

    def _push_locked(self, every: float, client: weakref.ref[Client]) -> None:
        heapq.heappush(self._heap, (time.monotonic() + every, next(self._serial), every, client))
        self._wakeup.notify()

    def _run(self) -> None:
        while True:
            with self._lock:
                while not self._stopped and not (self._heap and self._heap[0][0] <= time.monotonic()):
                    self._wakeup.wait(max(0.0, self._heap[0][0] - time.monotonic()) if self._heap else None)
                if self._stopped:
                    return
                _, _, every, reference = heapq.heappop(self._heap)
            client = reference()
            if client is not None and not client.connection.closing:
                self._look_at(client)
                with self._lock:
                    self._push_locked(every, reference)
            # It is not to be held while the next one is waited for.
            del client

    def _look_at(self, client: Client) -> None:
        try:
            if not client.authorization.is_valid():
                client.authorization.expire("no longer known to the app")
        except Exception:
            # A database that is away is no reason to put everybody out: the question is asked again.
            self._logger.exception("cartows: looking client %s up again failed; it stays", client.id)
