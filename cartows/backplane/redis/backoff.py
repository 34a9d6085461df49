"""How long to wait before the next attempt at a broker that is unreachable.

**Locks**: none of its own; where several threads share one, they hold theirs.
"""

from __future__ import annotations

import random

__all__ = ["Backoff"]


class Backoff:
    """A random wait of at most a bound that doubles, in seconds: random, so that not all processes retry at once."""

    def __init__(self, first: float, last: float) -> None:
        self._first, self._last = first, last
        self._bound = first

    def reset(self) -> None:
        """Return to the first bound, after an attempt that succeeded."""
        self._bound = self._first

    def wait(self) -> float:
        """Return how long to wait now, and double the bound."""
        bound, self._bound = self._bound, min(self._last, 2 * self._bound)
        return random.uniform(0, bound)
