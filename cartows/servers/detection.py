"""Which web server runs this process or received a request, as far as it can be found out.

A further server is a module of its own beside this one and an entry in ``SERVERS``.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from types import FrameType
from typing import Any

from .base import Server, Worker
from .gunicorn import Gunicorn
from .werkzeug import Werkzeug

__all__ = [
    "SERVERS",
    "configured_threads",
    "configured_workers",
    "find_socket",
    "find_worker",
    "forked_to_serve",
    "replaced_threads",
    "serving",
]

#: The servers that the hand-off of a socket was tested on, in the order in which they are asked.
SERVERS: tuple[Server, ...] = (Werkzeug(), Gunicorn())


def serving() -> bool:
    """Return whether this process answers a web server's requests, as far as the caller's stack and the system show."""
    return any(server.serves() for server in SERVERS)


def forked_to_serve(forker: FrameType | None) -> bool:
    """Return whether this process is a worker that a web server has just forked; ``forker`` is the frame that did."""
    return forker is not None and any(server.starts_worker(forker) for server in SERVERS)


def find_socket(environ: Mapping[str, Any]) -> tuple[Server, Any] | None:
    """Return the server that received a request and the request's socket, or None where a server gives access to none."""
    for server in SERVERS:
        sock = server.find_socket(environ)
        if sock is not None:
            return server, sock
    return None


def find_worker() -> Worker | None:
    """Return the worker that runs the caller's request, or None where there is none to watch."""
    return next((worker for server in SERVERS if (worker := server.find_worker()) is not None), None)


def configured_workers() -> int:
    """Return how many worker processes are configured, 1 where no known server loads or runs the app."""
    return next((count for server in SERVERS if (count := server.workers()) is not None), 1)


def configured_threads() -> int:
    """Return how many threads a worker process has for requests, 0 where that is unknown or unlimited."""
    return next((count for server in SERVERS if (count := server.threads()) is not None), 0)


def replaced_threads() -> str | None:
    """Return the name of the library that has replaced this process's threads by greenlets, or None.

    gevent replaces even ``queue.Queue``, and a thread that waits for a socket in C stops all greenlets.
    """
    gevent, eventlet = sys.modules.get("gevent.monkey"), sys.modules.get("eventlet.patcher")
    if gevent is not None and gevent.is_module_patched("threading"):
        return "gevent"
    if eventlet is not None and eventlet.is_monkey_patched("thread"):
        return "eventlet"
    return None
