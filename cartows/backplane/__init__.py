"""The ways between processes: none for one process by itself, Redis Streams for many.

What is promised stands in ``base``; ``local`` is what a hub uses by itself, ``streams`` what it uses with ``redis_url``.
"""

from __future__ import annotations

from .base import Backplane, Entry, Outcome, OutgoingEvent, Sink, Snapshot
from .local import LocalBackplane

__all__ = ["Backplane", "Entry", "LocalBackplane", "Outcome", "OutgoingEvent", "Sink", "Snapshot"]
