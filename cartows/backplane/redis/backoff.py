"""How long to wait before the next try at a broker that is away.

Threads: the one that tries.
Locks: none of its own; where several may come to it, theirs.
Blocks: never.
"""

from __future__ import annotations

import random

__all__ = ["Backoff"]


class Backoff:
    """Wait at random between nothing and a bound that doubles, in seconds: all processes must not come at once."""

    def __init__(self, first: float, last: float) -> None:
        self._first, self._last = first, last
        self._bound = first

    def reset(self) -> None:
        """Begin with the first bound again, since a try has worked."""
        self._bound = self._first

    def wait(self) -> float:
        """Return how long to wait now."""
        bound, self._bound = self._bound, min(self._last, 2 * self._bound)
        return random.uniform(0, bound)
