"""The backplane on Redis Streams: events and presence entries of many processes on many machines.

Made by the hub where ``redis_url`` is set. Its own threads read and write; the hub thread and publishers only hand over.
"""

from __future__ import annotations

from .backplane import RedisBackplane

__all__ = ["RedisBackplane"]
