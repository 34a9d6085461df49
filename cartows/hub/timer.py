"""Call functions at given times, on one thread that is shared by all that a hub has to time.

**Threads**: one, made by ``start``; it runs every call. The methods may be called on any thread.
**Locks**: ``_lock`` guards the heap. It is a leaf: no other lock is taken, and nothing is called, while it is held.
**Blocks**: the timer thread until the next call is due, and for as long as a call takes.

All times are in seconds, by the monotonic clock.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
import time
from collections.abc import Callable

__all__ = ["NEVER", "Timer", "TimerEntry"]

#: The time of what is not scheduled.
NEVER = float("inf")


class TimerEntry:
    """A function that is called each time it is scheduled for, until it is cancelled."""

    __slots__ = ("call",)

    def __init__(self, call: Callable[[], float]) -> None:
        #: Returns the time of its next call, or NEVER. None once cancelled: what the heap keeps until then is small.
        self.call: Callable[[], float] | None = call

    def cancel(self) -> None:
        """Never call the function again."""
        self.call = None


class Timer:
    """A heap of entries, and the thread that calls them.

    An entry is called at its time or, together with one that is due earlier, up to ``slack`` seconds before it: entries that
    are due close together cost one wakeup. One that raises is not called again.
    """

    def __init__(self, name: str, logger: logging.Logger, slack: float = 0.0) -> None:
        self._name = name
        self._logger = logger
        self._slack = slack
        self._lock = threading.Lock()
        self._wakeup = threading.Condition(self._lock)
        self._thread: threading.Thread | None = None
        self._stopped = False
        # Entries with the same time are called in the order in which they were scheduled.
        self._serial = itertools.count()
        self._heap: list[tuple[float, int, TimerEntry]] = []

    def start(self) -> None:
        """Start the thread, once. Raises RuntimeError when the process has no thread left; a later call tries again."""
        with self._lock:
            if self._thread is None:
                thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                thread.start()
                self._thread = thread

    def stop(self, timeout: float) -> None:
        """End the thread and wait for it ``timeout`` seconds at most: a call may take longer."""
        with self._lock:
            self._stopped = True
            self._wakeup.notify_all()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(max(0.0, timeout))

    def call_soon(self, call: Callable[[], None]) -> None:
        """Call a function once, ahead of everything that is scheduled."""
        self.call_at(-NEVER, call)

    def call_at(self, when: float, call: Callable[[], None]) -> None:
        """Call a function once."""

        def once() -> float:
            call()
            return NEVER

        self.schedule(TimerEntry(once), when)

    def call_every(self, period: float, call: Callable[[], bool]) -> None:
        """Call a function ``period`` seconds from now, and again after each call for as long as it returns True."""

        def again() -> float:
            return time.monotonic() + period if call() else NEVER

        self.schedule(TimerEntry(again), time.monotonic() + period)

    def schedule(self, entry: TimerEntry, when: float) -> None:
        """Call an entry at a time, besides the times that it is scheduled for already."""
        if when == NEVER:
            return
        with self._lock:
            heapq.heappush(self._heap, (when, next(self._serial), entry))
            if self._heap[0][2] is entry:
                self._wakeup.notify()

    def _run(self) -> None:
        # What is due is local to a method that has returned before the next wait, so that no client is kept alive by it.
        while self._call_due():
            pass

    def _call_due(self) -> bool:
        """Wait until an entry is due and call all that are; False once the timer is stopped."""
        with self._lock:
            now = time.monotonic()
            # Without the slack: an entry that is called early and is not done would be called again and again until its time.
            while not self._stopped and not (self._heap and self._heap[0][0] <= now):
                self._wakeup.wait(self._heap[0][0] - now if self._heap else None)
                now = time.monotonic()
            due: dict[TimerEntry, None] = {}
            while self._heap and self._heap[0][0] <= now + self._slack:
                due[heapq.heappop(self._heap)[2]] = None
        for entry in due:
            if self._stopped:
                break
            self._call(entry)
        return not self._stopped

    def _call(self, entry: TimerEntry) -> None:
        call = entry.call
        if call is None:
            return
        try:
            when = call()
        except Exception:
            self._logger.exception(
                "cartows: a call of the thread %s failed and is not repeated; the others are made", self._name
            )
            return
        if entry.call is not None:
            self.schedule(entry, when)
