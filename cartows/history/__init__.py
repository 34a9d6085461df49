"""The events that can be replayed, what each client has been sent of them, and the replay of a client that resumes.

Owns the replay window of one hub. The hub thread appends to it, any thread reads it. A replay belongs to one client, whose send
lock guards it. A delivery log belongs to the hub thread.
"""

from __future__ import annotations

from .delivery_log import DeliveryLog
from .history import Event, History, event_id
from .replay import Replay, ReplayRequest

__all__ = ["DeliveryLog", "Event", "History", "Replay", "ReplayRequest", "event_id"]
