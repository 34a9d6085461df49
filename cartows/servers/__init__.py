"""What differs from web server to web server: one module each, all of them behind the Protocol ``Server``.

Called on the thread of a request, on the one that makes the app, and ``serving`` on any that publishes.
"""

from __future__ import annotations

from .base import Server, Worker
from .detection import configured_workers, find_socket, find_worker, forked_to_serve, replaced_threads, serving

__all__ = [
    "Server",
    "Worker",
    "configured_workers",
    "find_socket",
    "find_worker",
    "forked_to_serve",
    "replaced_threads",
    "serving",
]
