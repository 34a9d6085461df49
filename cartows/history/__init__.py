"""The events that can be replayed, and the replay of one client that resumes.

The hub thread appends; whoever writes to a client's socket reads.
"""

from __future__ import annotations

from .history import Event, History, event_id
from .replay import Replay

__all__ = ["Event", "History", "Replay", "event_id"]
