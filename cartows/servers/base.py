"""What is known of the web servers this runs under: whether one serves here, and when its worker stops.

Threads: any.
Locks: none.
Blocks: never.

gunicorn calls no hook of an application on SIGTERM and hands it no reference to its worker; it is read off the caller's own
stack, where the worker is ``self``: it loads the app and it runs every request. Only the own stack: another thread's frames
come and go while they are looked at, and a walk along them may never end.
"""

from __future__ import annotations

import os
import sys
from types import FrameType
from typing import Any

__all__ = ["configured_workers", "gunicorn_worker", "replaced_threads", "serving"]

_SERVERS = (
    ("gunicorn.workers.base", "Worker"),
    ("gunicorn.arbiter", "Arbiter"),
    ("werkzeug.serving", "BaseWSGIServer"),
)


def serving() -> bool:
    """Return whether this process belongs to a web server, as far as its environment or the caller's stack shows."""
    if os.environ.get("SERVER_SOFTWARE", "").startswith("gunicorn") or "WERKZEUG_SERVER_FD" in os.environ:
        return True
    return any(_selves(*known) for known in _SERVERS)


def replaced_threads() -> str | None:
    """Return the name of the library that has put greenlets in the place of this process's threads, or None.

    gevent replaces even ``queue.Queue``, and a thread that waits for a socket in C stops all greenlets.
    """
    gevent, eventlet = sys.modules.get("gevent.monkey"), sys.modules.get("eventlet.patcher")
    if gevent is not None and gevent.is_module_patched("threading"):
        return "gevent"
    if eventlet is not None and eventlet.is_monkey_patched("thread"):
        return "eventlet"
    return None


def gunicorn_worker() -> Any | None:
    """Return the gunicorn worker that runs the caller's request, or None; its ``alive`` says whether it goes on."""
    found = _selves("gunicorn.workers.base", "Worker")
    return found[0] if found else None


def configured_workers() -> int:
    """Return how many gunicorn workers are configured, 1 where it is not gunicorn that loads or runs the app."""
    for owner in _selves("gunicorn.workers.base", "Worker") + _selves("gunicorn.arbiter", "Arbiter"):
        workers = getattr(getattr(owner, "cfg", None), "workers", None)
        if isinstance(workers, int):
            return workers
    return 1


def _selves(module: str, name: str) -> list[Any]:
    """Return what is called ``self`` on the caller's stack and is an instance of that class, the innermost first."""
    kind = getattr(sys.modules.get(module), name, None)
    found: list[Any] = []
    frame: FrameType | None = sys._getframe() if isinstance(kind, type) else None
    while frame is not None and isinstance(kind, type):
        if "self" in frame.f_code.co_varnames and isinstance(frame.f_locals.get("self"), kind):
            found.append(frame.f_locals["self"])
        frame = frame.f_back
    return found
