"""Presence: which clients are shown in each room, and which messages the members of a room are sent about it.

Owns the presence entries of this process's clients, and those of other processes beside them. The hub thread changes them; any
thread may read who is present.
"""

from __future__ import annotations

from .presence import Presence, PresenceEntry, PresenceReport
from .roster import PresenceUpdate

__all__ = ["Presence", "PresenceEntry", "PresenceReport", "PresenceUpdate"]
