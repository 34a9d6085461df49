"""What is known of the web servers this runs under: whether one serves here, and when its worker stops.

Threads: any.
Locks: none.
Blocks: never.

gunicorn calls no hook of an application on SIGTERM and hands it no reference to its worker; both are read off the stacks of
the process's threads, where the worker or the server is ``self``.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

__all__ = ["configured_workers", "gunicorn_worker", "replaced_threads", "serving"]

_SERVERS = (
    ("gunicorn.workers.base", "Worker"),
    ("werkzeug.serving", "BaseWSGIServer"),
    ("waitress.server", "BaseWSGIServer"),
)


def serving() -> bool:
    """Return whether a thread of this process is inside a web server."""
    return any(_selves(_frames(None), *known) for known in _SERVERS)


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
    """Return the gunicorn worker that the main thread runs, or None; its ``alive`` says whether it goes on."""
    main = threading.main_thread().ident
    found = _selves(_frames(main), "gunicorn.workers.base", "Worker")
    return found[0] if found else None


def configured_workers() -> int:
    """Return how many gunicorn workers are configured, 1 where it is not gunicorn that loads or runs the app."""
    main = threading.main_thread().ident
    owners = _selves(_frames(main), "gunicorn.workers.base", "Worker")
    owners += _selves(_frames(main), "gunicorn.arbiter", "Arbiter")
    for owner in owners:
        workers = getattr(getattr(owner, "cfg", None), "workers", None)
        if isinstance(workers, int):
            return workers
    return 1


def _frames(thread: int | None) -> Iterator[FrameType]:
    for ident, frame in sys._current_frames().items():
        if thread is None or ident == thread:
            each: FrameType | None = frame
            while each is not None:
                yield each
                each = each.f_back


def _selves(frames: Iterator[FrameType], module: str, name: str) -> list[Any]:
    """Return what is called ``self`` on a stack and is an instance of that class."""
    kind = getattr(sys.modules.get(module), name, None)
    if not isinstance(kind, type):
        return []
    found = (frame.f_locals.get("self") for frame in frames if "self" in frame.f_code.co_varnames)
    return [each for each in found if isinstance(each, kind)]
