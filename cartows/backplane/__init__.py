"""The transports between processes: none for a single process, Redis Streams for many.

``base`` states what a backplane guarantees, and on which thread each method runs. A hub uses ``local`` by default and ``redis``
where ``redis_url`` is set; a Publisher uses the event writer of ``redis`` alone.
"""

from __future__ import annotations

from .base import Backplane, BackplaneResult, Entry, OutgoingEvent, Sink, Snapshot
from .local import LocalBackplane

__all__ = ["Backplane", "BackplaneResult", "Entry", "LocalBackplane", "OutgoingEvent", "Sink", "Snapshot"]
