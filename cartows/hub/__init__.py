"""The hub: the thread that hands out events, the registry of clients, their timers and the broadcast queue.

Owns all state that concerns several clients of a process. Applications call ``Hub`` on any thread; everything else here is
called by the hub itself, by the handler on a request's thread, or by a client on its reader thread.
"""

from __future__ import annotations

from .hub import Hub

__all__ = ["Hub"]
