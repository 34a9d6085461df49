"""Waiting for what another thread or process does."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

# The limit of every wait, in seconds; nothing that works comes near it.
DEADLINE = 30.0

T = TypeVar("T")


def wait_until(condition: Callable[[], T], what: str | Callable[[], str] = "the condition", deadline: float = DEADLINE) -> T:
    """Return what ``condition`` returns as soon as that is true; fail after the deadline, naming what was waited for."""
    end = time.monotonic() + deadline
    pause = 0.001
    while not (found := condition()):
        if time.monotonic() > end:
            raise AssertionError(f"waited {deadline} s for {what if isinstance(what, str) else what()}")
        time.sleep(pause)
        pause = min(2 * pause, 0.01)
    return found
