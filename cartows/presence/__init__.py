"""Who is in a room: the rosters of this process's clients, and the entries of other processes beside them.

The hub thread changes them; any thread may ask who is present.
"""

from __future__ import annotations

from .presence import Presence

__all__ = ["Presence"]
