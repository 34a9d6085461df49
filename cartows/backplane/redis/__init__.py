"""The backplane on Redis Streams: events and presence entries of many processes on many machines.

A hub makes a ``RedisBackplane`` where ``redis_url`` is set. Threads of its own read and write; the hub thread and publishers
only hand over.
"""

from __future__ import annotations

from .backplane import RedisBackplane

__all__ = ["RedisBackplane"]
